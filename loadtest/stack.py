"""vLLM and the service as processes of their own, as `service.local_stack` starts them."""

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from mirakuru import TCPExecutor

from service.errors import ConfigError, EngineError
from service.local_stack import HOST, SERVICE_ENVIRONMENT, free_port, running, service_process, vllm_process

# Longer than any request takes here: where rates are in question, deadlines are not.
LONG_DEADLINE = {
    "RANKRAG_REQUEST_TIMEOUT_S": "300", "RANKRAG_LIMITS__MAX_DEADLINE_MS": "300000", "RANKRAG_SHUTDOWN__GRACE_S": "300",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM is started: as `make demo` does, with another KV cache; `arguments` come last and win."""

    python: Path
    checkpoint: str
    num_blocks: int
    kv_cache_gib: int
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningService:
    url: str
    pid: int

    def rss_bytes(self) -> int:
        """Memory that the process and its children hold now.

        Raises:
            EngineError: it is dead.
        """
        try:
            process = psutil.Process(self.pid)
            return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
        except psutil.NoSuchProcess as exc:
            raise EngineError("the service died") from exc


def end_on_sigterm() -> None:
    """SIGTERM ends this process as an error would: what it has started ends with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def vllm_arguments(options: VllmOptions) -> tuple[str, ...]:
    """What it is started with beyond the usual."""
    return ("--num-gpu-blocks-override", str(options.num_blocks), *options.arguments)


@contextmanager
def vllm_running(options: VllmOptions, log: Path) -> Iterator[str]:
    """One vLLM; its URL. It can be told to forget its prefixes.

    Raises:
        ConfigError: it did not come up.
    """
    port = free_port()
    environment = {"VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib), "VLLM_SERVER_DEV_MODE": "1"}
    with TemporaryDirectory(prefix="rankrag-") as scratch:
        process = vllm_process(
            options.python, options.checkpoint, port, log, Path(scratch),
            arguments=vllm_arguments(options), environment=environment,
        )  # fmt: skip
        with running(process, "vLLM", log):
            yield f"http://{HOST}:{port}"


@contextmanager
def redis_running() -> Iterator[str]:
    """A Redis that keeps nothing on disk; its URL.

    Raises:
        ConfigError: redis-server is missing.
    """
    if shutil.which("redis-server") is None:
        raise ConfigError("redis-server is missing: `make setup-redis` installs it")
    port = free_port()
    command = f"redis-server --port {port} --bind {HOST} --save '' --appendonly no"
    with TCPExecutor(command, HOST, port, timeout=20, stdout=subprocess.DEVNULL):
        yield f"redis://{HOST}:{port}/0"


@contextmanager
def service_running(
    checkpoint: str, vllm_urls: Sequence[str], settings: Mapping[str, str], log: Path
) -> Iterator[RunningService]:
    """One service over these vLLMs; `settings` are environment variables.

    Raises:
        ConfigError: it did not come up.
    """
    port = free_port()
    process = service_process(port, service_environment(checkpoint, vllm_urls, settings), log)
    with ExitStack() as stack:
        stack.enter_context(running(process, "the service", log))
        if process.process is None:
            raise ConfigError("the service has no process")
        yield RunningService(f"http://{HOST}:{port}", process.process.pid)


def service_environment(checkpoint: str, vllm_urls: Sequence[str], settings: Mapping[str, str]) -> dict[str, str]:
    """Canaries wait behind the other contenders' traffic, which the service knows nothing of: hence their long time."""
    return {
        **SERVICE_ENVIRONMENT,
        "RANKRAG_CHECKPOINT": checkpoint,
        "RANKRAG_VLLM__URL": ",".join(vllm_urls),
        "RANKRAG_VLLM__HEALTH_TIMEOUT_S": "60",
        **settings,
    }


def machine() -> dict[str, str | int]:
    """What numbers from here hold for."""
    return {
        "cpu": _cpu_model(),
        "num_cores": psutil.cpu_count() or 0,
        "memory_gib": math.floor(psutil.virtual_memory().total / 2**30),
        "system": f"{os.uname().sysname} {os.uname().release}",
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
