"""vLLM and the service on this machine, each a supervised process that leaves nothing behind."""

import os
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import psutil
from mirakuru import HTTPExecutor
from mirakuru.exceptions import ProcessExitedWithError, TimeoutExpired

from service.errors import ConfigError

START_TIMEOUT_S = 300
HOST = "127.0.0.1"

# vLLM on CPU for a small checkpoint: float32, because most CPUs only emulate bfloat16; blocks of 32 tokens, so
# that short passages share their prefix, and 3,072 of them (1 GB at the demo's size), so that the prefixes stay; no
# compiler, which would cost more at the start than it gains here (without TORCH_COMPILE_DISABLE the first scoring
# call still runs one, and dies where there is none). Steps of 512 tokens (30 ms on one core), in the order that the
# service wants: what is urgent waits for one step only.
#
# The model runs inside vLLM's scheduling process (`uni`), which otherwise spins on a core of its own for as long as it
# waits for a worker: on two cores that is a third of what vLLM, the service and its callers have between them. On CPUs
# vLLM takes `uni` only where it is told that there is one process (0), and then leaves the number of threads to us.
VLLM_ARGUMENTS = (
    "--dtype", "float32", "--block-size", "32", "--enforce-eager", "--num-gpu-blocks-override", "3072",
    "--max-num-batched-tokens", "512", "--scheduling-policy", "priority", "--distributed-executor-backend", "uni",
    "--disable-uvicorn-access-log",
)  # fmt: skip
VLLM_ENVIRONMENT = {
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

# On the same cores, what answers goes before what computes: else a refusal waits for the engine to be scheduled out.
# Where Linux shares the cores between sessions first, niceness counts within one only: the session's own comes first.
AFTER_THE_SERVICE = (
    "sh", "-c", 'if [ -w /proc/self/autogroup ]; then echo 5 > /proc/self/autogroup; fi; exec nice -n 5 "$@"', "sh",
)  # fmt: skip

NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})

# What the service should know of such a vLLM: it keeps the service's order, so that a window of a second's work, sent
# in large calls, costs urgent requests nothing.
SERVICE_ENVIRONMENT = {"RANKRAG_VLLM__PRIORITY_SCHEDULING": "true", "RANKRAG_VLLM__WINDOW_TOKENS": "32768"}

# A service for this machine's user alone, on loopback and on one port: no keys, and Ctrl-C ends it at once.
LOCAL_ENVIRONMENT = {"RANKRAG_AUTH__MODE": "off", "RANKRAG_ADMIN__PORT": "0", "RANKRAG_SHUTDOWN__DELAY_S": "0"}


def free_port() -> int:
    """A loopback port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def choose_port(wanted: int | None, default: int) -> int:
    """`wanted` if given, else `default` if free, else any.

    Raises:
        ConfigError: the port that was asked for is taken.
    """
    if wanted is None:
        return default if _is_free(default) else free_port()
    if not _is_free(wanted):
        raise ConfigError(f"port {wanted} is in use: choose another with PORT=", field="port")
    return wanted


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def _num_compute_threads() -> int:
    """Every core of this machine but the one that the service, its callers and vLLM's front share."""
    return max((psutil.cpu_count(logical=False) or psutil.cpu_count() or 1) - 1, 1)


def vllm_process(
    python: Path, checkpoint: str, port: int, log: Path, scratch: Path, *,
    arguments: Sequence[str] = (), environment: Mapping[str, str] = NO_ENVIRONMENT,
) -> HTTPExecutor:  # fmt: skip
    """vLLM's OpenAI server in its own environment; ready when /health answers.

    `arguments` and `environment` come after the usual ones and win. `scratch` takes its sockets, which it leaves
    behind even when it ends well; a short path, as sockets want.
    """
    if not python.is_file():
        raise ConfigError(f"{python} does not exist: `make setup` makes vLLM's environment")
    command = [
        *AFTER_THE_SERVICE, str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint,
        "--host", HOST, "--port", str(port), *VLLM_ARGUMENTS, *arguments,
    ]  # fmt: skip
    variables = {
        **VLLM_ENVIRONMENT, "OMP_NUM_THREADS": str(_num_compute_threads()), "TMPDIR": str(scratch), **environment,
    }  # fmt: skip
    return _process(command, f"http://{HOST}:{port}/health", variables, log)


def service_process(port: int, environment: dict[str, str], log: Path, *, path: str = "/readyz") -> HTTPExecutor:
    """`rankrag serve` with settings from `environment`; ready when questions can be asked.

    It is open to this machine's users, unless `environment` or this process's own says otherwise.
    """
    command = [sys.executable, "-m", "service", "serve", "--host", HOST, "--port", str(port)]
    local = {name: value for name, value in LOCAL_ENVIRONMENT.items() if name not in os.environ}
    return _process(command, f"http://{HOST}:{port}{path}", {**local, **environment}, log)


def _process(command: list[str], url: str, environment: dict[str, str], log: Path) -> HTTPExecutor:
    log.parent.mkdir(parents=True, exist_ok=True)
    return HTTPExecutor(
        f"exec {shlex.join(command)} > {shlex.quote(str(log))} 2>&1", url, shell=True, method="GET",  # nosec B604
        timeout=START_TIMEOUT_S, envvars={**os.environ, **environment}, expected_returncode=None,
    )  # fmt: skip


@contextmanager
def running(process: HTTPExecutor, name: str, log: Path) -> Iterator[HTTPExecutor]:
    """Start, wait until ready, stop at the end.

    Raises:
        ConfigError: it did not come up; the end of its log is in the message.
    """
    try:
        process.start()
    except (ProcessExitedWithError, TimeoutExpired) as exc:
        process.kill()
        raise ConfigError(f"{name} did not come up. The end of {log}:\n{tail(log)}") from exc
    try:
        yield process
    finally:
        process.stop()


def tail(log: Path, *, num_lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
