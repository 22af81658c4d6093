"""What the compose file promises, read as YAML; `make helm-check` has Compose itself read it, too."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.generate import CHART

ROOT = CHART.parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

every_service = pytest.mark.parametrize("name", SERVICES)


def test_services_are_those_of_the_profiles() -> None:
    assert {name: service.get("profiles", ["always"]) for name, service in SERVICES.items()} == {
        "rankrag": ["cpu"], "vllm": ["cpu"], "rankrag-gpu": ["gpu"], "vllm-gpu": ["gpu"],
        "redis": ["always"], "index": ["always"],
        "prometheus": ["observability"], "grafana": ["observability"],
    }  # fmt: skip
    assert "COMPOSE_PROFILES=cpu\n" in (ROOT / ".env").read_text(encoding="utf-8")


@every_service
def test_every_service_is_hardened_bounded_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"], service["init"]) == (True, ["ALL"], True)
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["healthcheck"]["test"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert name == "index" or service["stop_grace_period"]


@every_service
def test_images_have_exact_tags(name: str) -> None:
    tag = SERVICES[name]["image"].removesuffix("}").rpartition(":")[2]
    assert tag.lstrip("v")[0].isdigit()
    assert tag.count(".") >= 2


@every_service
def test_only_the_api_is_published_and_grafana_on_the_loopback(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    if name == "grafana":
        assert all(port.startswith("127.0.0.1:") for port in ports)
    else:
        assert ports == (["${RANKRAG_PUBLISH:-127.0.0.1:8080}:8080"] if name.startswith("rankrag") else [])


@pytest.mark.parametrize("name", ["vllm", "vllm-gpu", "redis", "prometheus"])
def test_what_is_inside_has_no_way_out(name: str) -> None:
    assert list(SERVICES[name]["networks"]) == ["inside"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


@pytest.mark.parametrize(("name", "engine"), [("rankrag", "vllm"), ("rankrag-gpu", "vllm-gpu")])
def test_the_service_waits_for_what_it_needs(name: str, engine: str) -> None:
    assert SERVICES[name]["depends_on"] == {
        "index": {"condition": "service_completed_successfully"},
        engine: {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
    }


def test_secrets_are_files_and_nothing_else() -> None:
    assert all(secret["file"].startswith("./secrets/") for secret in COMPOSE["secrets"].values())
    for service in SERVICES.values():
        named = [key for key in service.get("environment", {}) if "PASSWORD" in key or "API_KEY" in key]
        assert all(key.endswith("__FILE") for key in named)


@pytest.mark.parametrize("name", ["vllm", "vllm-gpu"])
def test_vllm_is_started_for_scoring(name: str) -> None:
    command = SERVICES[name]["command"]
    assert {"--scheduling-policy=priority", "--enable-prefix-caching"} <= set(command)
    assert SERVICES["rankrag"]["environment"]["RANKRAG_VLLM__PRIORITY_SCHEDULING"] == "true"


def test_monitoring_has_the_chart_s_rules_and_dashboard() -> None:
    mounts = [mount.split(":")[0] for name in ("prometheus", "grafana") for mount in SERVICES[name]["volumes"]]
    files = [ROOT / mount for mount in mounts if mount.startswith("./")]
    assert CHART / "files" / "rules.yaml" in files
    assert CHART / "files" / "dashboard.json" in files
    assert all(file.is_file() for file in files)


@pytest.mark.parametrize(
    ("profiles", "services"),
    [
        ({"cpu"}, {"rankrag", "vllm", "redis", "index"}),
        ({"gpu"}, {"rankrag-gpu", "vllm-gpu", "redis", "index"}),
        ({"cpu", "observability"}, {"rankrag", "vllm", "redis", "index", "prometheus", "grafana"}),
        ({"gpu", "observability"}, {"rankrag-gpu", "vllm-gpu", "redis", "index", "prometheus", "grafana"}),
    ],
)
def test_a_profile_starts_all_that_its_services_wait_for(profiles: set[str], services: set[str]) -> None:
    started = {
        name for name, service in SERVICES.items() if not service.get("profiles") or profiles & {*service["profiles"]}
    }
    assert started == services
    assert {needed for name in started for needed in SERVICES[name].get("depends_on", [])} <= started


@every_service
@pytest.mark.parametrize("kind", ["networks", "secrets"])
def test_what_is_named_is_there(kind: str, name: str) -> None:
    assert set(SERVICES[name].get(kind, [])) <= COMPOSE[kind].keys()


@pytest.mark.helm
@pytest.mark.parametrize("profiles", [[], ["cpu"], ["gpu"], ["cpu", "observability"], ["gpu", "observability"]])
def test_compose_reads_the_file_in_every_profile(profiles: list[str]) -> None:
    flags = [part for profile in profiles for part in ("--profile", profile)]
    assert compose(ROOT, *flags, "config", "--quiet") == (0, "")
    code, told = compose(ROOT, *flags, "config")
    assert (code, yaml.safe_load(told)["services"].keys()) == (0, SERVICES.keys())


@pytest.mark.helm
@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("read_only: true", "read_onyl: true", "read_onyl"),
        ("condition: service_healthy", "condition: service_happy", "condition"),
        ("retries: 3", "retries: three", "retries"),
    ],
)
def test_compose_names_what_is_wrong(right: str, wrong: str, named: str, tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    (tmp_path / "docker-compose.yml").write_text(text.replace(right, wrong), encoding="utf-8")
    code, told = compose(tmp_path, "--profile", "cpu", "config")
    assert code != 0
    assert named in told


def compose(directory: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and what it wrote of Debian's Compose; with no profile in the environment but that of the .env file."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    command = ["docker-compose", "--project-directory", str(directory), "-f", str(directory / "docker-compose.yml")]
    done = subprocess.run(
        [*command, *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr
