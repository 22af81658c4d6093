"""What the Dockerfile promises; `make image-check` builds it."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
FINAL = DOCKERFILE[DOCKERFILE.index("FROM ${BASE} AS base") :]


def instructions(name: str, text: str = DOCKERFILE) -> list[str]:
    joined = text.replace("\\\n", " ")
    return [line.removeprefix(name).strip() for line in joined.splitlines() if line.startswith(name + " ")]


def test_every_stage_comes_from_one_exact_tag() -> None:
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.11\.\d+-slim-bookworm", instructions("ARG")[0])
    stages = [line.split(" AS ") for line in instructions("FROM")]
    names = {name for _, name in stages}
    assert {"cpu", "gpu"} <= names
    assert {source for source, _ in stages} - names == {"${BASE}"}


def test_the_process_is_the_command_and_nobody() -> None:
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["rankrag"]
    assert json.loads(instructions("CMD", FINAL)[0]) == ["serve"]
    assert instructions("USER") == ["10001:10001"]


def test_health_is_asked_without_a_shell_or_curl() -> None:
    command = json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    assert "/livez" in command[2]


def test_no_credential_and_no_address_of_a_mirror_is_in_the_file() -> None:
    assert set(re.findall(r"https?://([\w.]+)", DOCKERFILE)) == {"download.pytorch.org", "127.0.0.1"}
    assert re.search(r"(?i)(password|token|secret)=", DOCKERFILE) is None
    assert all(mount.startswith("type=secret") for mount in re.findall(r"--mount=(\S+)", DOCKERFILE))


def test_labels_are_those_of_open_containers() -> None:
    label = " ".join(instructions("LABEL"))
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in label


def test_the_context_holds_only_what_is_copied() -> None:
    rows = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    first = [row for row in rows if not row.startswith("#")]
    assert "*" in first
    allowed = {row.removeprefix("!").rstrip("/") for row in rows if row.startswith("!")}
    copied = {
        source.rstrip("/") for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]
    }
    assert {path.split("/")[0] for path in allowed} == {path.split("/")[0] for path in copied}
    assert not any("secret" in path or path == ".git" for path in allowed)
