"""`make image-check`: the Dockerfile is built, and what it made is looked at and started."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.buildah import Buildah
from tests.deploy.test_dockerfile import ROOT, instructions

pytestmark = [pytest.mark.image, pytest.mark.timeout(3000)]

BASE = instructions("ARG")[0].removeprefix("BASE=")
IMAGE = "localhost/rankrag:check"
WORK = ROOT / "build" / "image-check"
USER = "10001:10001"
ADMIN_PORT, PORT = 18081, 18080


@pytest.fixture(scope="module")
def buildah() -> Buildah:
    assert shutil.which("buildah") and shutil.which("debootstrap"), "`make image-check` installs both"
    WORK.mkdir(parents=True, exist_ok=True)
    found = Buildah(WORK / "storage")
    if not found.has(BASE):
        found.make_base(BASE, WORK)
    return found


@pytest.fixture(scope="module")
def image(buildah: Buildah) -> str:
    buildah.build(ROOT, "cpu", IMAGE, WORK, ["--build-arg", "TORCH_INDEX=", "--build-arg", "REVISION=check"])
    return IMAGE


@pytest.fixture(scope="module")
def container(buildah: Buildah, image: str) -> Iterator[str]:
    """One for all tests: without layers, each is a copy of the whole image."""
    with buildah.container(image) as name:
        yield name


def run(buildah: Buildah, container: str, *command: str) -> str:
    return buildah("run", "--isolation", "chroot", "--user", USER, container, "--", *command)


def test_it_says_how_it_runs(buildah: Buildah, image: str) -> None:
    config = buildah.config(image)
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == (USER, ["rankrag"], ["serve"])
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert config["Labels"]["org.opencontainers.image.revision"] == "check"
    assert config["Labels"]["org.opencontainers.image.variant"] == "cpu"


def test_it_holds_no_tools_and_no_secrets(buildah: Buildah, container: str) -> None:
    root = Path(buildah("mount", container))
    tools = [
        path for name in ("pip*", "gcc*", "cc", "make", "git", "curl", "wget") for path in root.glob(f"**/bin/{name}")
    ]
    assert tools == []
    assert not list((root / "opt/rankrag/venv").glob("**/site-packages/pip"))
    assert not (root / "etc/pip.conf").exists()
    assert not list((root / "opt").glob("**/.git"))
    assert not (root / "opt/rankrag/venv/lib/python3.11/site-packages/training").exists()


def test_nobody_may_write_to_the_program(buildah: Buildah, container: str) -> None:
    script = "import os; print([d for d, _, f in os.walk('/opt') if os.access(d, os.W_OK)][:3], os.getuid())"
    assert run(buildah, container, "python", "-c", script) == "[] 10001"


def test_the_bill_of_materials_is_complete(buildah: Buildah, container: str) -> None:
    script = "import importlib.metadata as m; print('\\n'.join(d.metadata['Name'] for d in m.distributions()))"
    installed = {name.lower().replace("_", "-") for name in run(buildah, container, "python", "-c", script).split()}
    bill = json.loads((ROOT / "dist" / "rankrag.cdx.json").read_text(encoding="utf-8"))
    listed = {component["name"].lower().replace("_", "-") for component in bill["components"]}
    assert installed - listed == {"rankrag"}
    assert bill["metadata"]["component"]["name"] == "rankrag"


def test_an_index_is_built_and_the_service_lives(buildah: Buildah, image: str, container: str) -> None:
    root = Path(buildah("mount", container))
    passages = (root / "opt/rankrag/demo/corpus.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (root / "tmp/corpus.jsonl").write_text("".join(passages[:32]), encoding="utf-8")
    run(buildah, container, "rankrag", "index", "build", "/tmp/corpus.jsonl", "--out", "/index/current")
    assert (root / "index/current/manifest.json").is_file()
    began_s = time.time()
    config = buildah.config(image)
    environment = {
        "RANKRAG_PORT": PORT, "RANKRAG_ADMIN__PORT": ADMIN_PORT, "RANKRAG_AUTH__MODE": "off",
        "RANKRAG_INDEX__PATH": "/index/current", "RANKRAG_SHUTDOWN__DELAY_S": 0,
    }  # fmt: skip
    variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    command = [*buildah.command, "run", "--isolation", "chroot", "--user", USER, *variables, container, "--"]
    with subprocess.Popen(
        [*command, *config["Entrypoint"], *config["Cmd"]], start_new_session=True, stdout=subprocess.DEVNULL
    ) as service:
        try:
            assert wait_for(ADMIN_PORT, "/livez", service) == 200
            assert status_of(PORT, "/livez") == 200
            assert status_of(ADMIN_PORT, "/readyz") == 503  # there is no vLLM here
            health = ["env", f"RANKRAG_ADMIN__PORT={ADMIN_PORT}", *config["Healthcheck"]["Test"][1:]]
            run(buildah, container, *health)
        finally:
            os.killpg(service.pid, signal.SIGTERM)
            service.wait(timeout=60)
    assert written_since(root, began_s) == []


def wait_for(port: int, path: str, service: "subprocess.Popen[bytes]", *, timeout_s: float = 180) -> int:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        assert service.poll() is None, f"the service ended with {service.returncode}"
        try:
            return status_of(port, path)
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"nothing listened on port {port} within {timeout_s} s")


def status_of(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def written_since(root: Path, moment_s: float) -> list[Path]:
    """Files outside of /tmp that a read-only root would have refused."""
    # buildah itself lays these down for each run
    own = {root / "etc/hosts", root / "etc/resolv.conf", root / "run/.containerenv", root / "etc/hostname"}
    places = [root / name for name in ("etc", "home", "index", "opt", "root", "run", "usr", "var")]
    files = [file for place in places for file in place.rglob("*") if file.is_file() and not file.is_symlink()]
    return [file for file in files if file not in own and file.stat().st_mtime > moment_s]
