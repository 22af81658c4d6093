"""The real parts: vLLM with the demo checkpoint, redis-server, the demo index, the service as a process."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import pytest
from mirakuru import HTTPExecutor, TCPExecutor
from prometheus_client.parser import text_string_to_metric_families

from service.local_stack import (
    HOST,
    LOCAL_ENVIRONMENT,
    SERVICE_ENVIRONMENT,
    free_port,
    running,
    service_process,
    vllm_process,
)

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models" / "demo"
INDEX = ROOT / "build" / "demo-index"
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
READY_WITHIN_S = 10.0

Settings = dict[str, str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is an integration test; those that stop a shared part come last."""
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: "faults" in item.path.name)


@dataclass
class Vllm:
    """The engine's process, which tests may kill, stop and start again on the same port."""

    port: int
    log: Path
    scratch: Path
    checkpoint: Path
    process: HTTPExecutor

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def num_requests(self) -> float:
        """Prompts that vLLM has finished, by its own count."""
        return self.count("vllm:request_success_total")

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric of vLLM's, over its series with these labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def signal_all(self, number: signal.Signals) -> None:
        assert self.process.process is not None
        parent = psutil.Process(self.process.process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            process.send_signal(number)

    def kill(self) -> None:
        """All of it at once, as the kernel does when memory runs out."""
        self.signal_all(signal.SIGKILL)
        self.process.kill()
        wait_until(lambda: not is_listening(self.port), within_s=READY_WITHIN_S)

    def restart(self) -> None:
        self.process = vllm_process(VLLM_PYTHON, str(self.checkpoint), self.port, self.log, self.scratch)
        self.process.start()


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@contextmanager
def started_vllm(log: Path, checkpoint: Path = CHECKPOINT) -> Iterator[Vllm]:
    port = free_port()
    with TemporaryDirectory(prefix="rankrag-") as scratch:
        process = vllm_process(VLLM_PYTHON, str(checkpoint), port, log, Path(scratch))
        engine = Vllm(port, log, Path(scratch), checkpoint, process)
        with running(process, "vLLM", log):
            try:
                yield engine
            finally:
                if engine.process is not process:
                    engine.process.stop()


@pytest.fixture(scope="session")
def vllm(logs: Path) -> Iterator[Vllm]:
    with started_vllm(logs / "vllm.log") as engine:
        yield engine


@pytest.fixture(scope="session")
def redis(logs: Path) -> Iterator[TCPExecutor]:
    port = free_port()
    command = f"redis-server --port {port} --bind {HOST} --save '' --appendonly no --dir {logs}"
    with TCPExecutor(command, HOST, port, timeout=20, stdout=subprocess.DEVNULL) as process:
        yield process


Start = Callable[[Settings], str]


@pytest.fixture(scope="session")
def start_service(logs: Path) -> Iterator[Start]:
    """Start a service with these settings, wait until it is ready, return its URL; stopped at the end."""
    started: list[HTTPExecutor] = []

    def start(settings: Settings, *, path: str = "/readyz") -> str:
        port = free_port()
        process = service_process(port, settings, logs / f"service-{port}.log", path=path)
        process.start()
        started.append(process)
        return f"http://{HOST}:{port}"

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def settings(vllm: Vllm) -> Settings:
    return {
        **LOCAL_ENVIRONMENT,
        **SERVICE_ENVIRONMENT,
        "RANKRAG_CHECKPOINT": str(CHECKPOINT),
        "RANKRAG_VLLM__URL": vllm.url,
        "RANKRAG_INDEX__PATH": str(INDEX),
    }


@pytest.fixture(scope="session")
def redis_settings(settings: Settings, redis: TCPExecutor) -> Settings:
    return {**settings, "RANKRAG_REDIS_URL": f"redis://{HOST}:{redis.port}/0"}


@pytest.fixture(scope="session")
def service(start_service: Start, redis_settings: Settings) -> str:
    return start_service(redis_settings)


@pytest.fixture
def client(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=60) as http:
        yield http


def wait_until(is_true: Callable[[], bool], *, within_s: float) -> float:
    """Seconds until `is_true`; fails if it takes longer than `within_s`."""
    begun = time.monotonic()
    while not is_true():
        waited = time.monotonic() - begun
        assert waited < within_s, f"not within {within_s} s"
        time.sleep(0.1)
    return time.monotonic() - begun


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def readiness(http: httpx.Client) -> int:
    return http.get("/readyz", timeout=30).status_code


def shared_data(name: str) -> Path:
    """A development file beside the repository; tests that want one are skipped where it is not."""
    path = Path(os.environ.get("RANKRAG_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        pytest.skip(f"development data is not here: {path}")
    return path
