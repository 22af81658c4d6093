"""`make demo`: the whole service on this machine, asked real questions."""

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import httpx
from mirakuru import HTTPExecutor
from rich.console import Console
from rich.markup import escape

from service.display import show_answer
from service.errors import ConfigError, EngineError
from service.local_stack import (
    HOST,
    SERVICE_ENVIRONMENT,
    choose_port,
    free_port,
    running,
    service_process,
    tail,
    vllm_process,
)
from service.settings import Settings

QUESTIONS = Path("demo/questions.jsonl")
LOGS = Path("build/logs")
NUM_SAMPLES = 6
WATCH_INTERVAL_S = 1.0


def run_demo(
    console: Console, settings: Settings, *, index: Path, vllm_python: Path, port: int | None, once: bool, ask: bool
) -> int:
    """Start everything, ask if wanted, stay up until a signal unless `once`. Returns an exit code.

    Raises:
        ConfigError: a part did not come up, or the index is missing.
    """
    if not (index / "manifest.json").is_file():
        raise ConfigError(f"{index} holds no index: build one with `rankrag index build`")
    service_port = choose_port(port, settings.port)
    with _stopped_by_signals(), _stack(console, settings, index, vllm_python, service_port) as parts:
        url = f"http://{HOST}:{service_port}"
        failures = ask_samples(console, url, _samples(index)) if ask else 0
        console.print(f"[bold green]ready[/] at {url}  (API: {url}/docs)", highlight=False)
        if once:
            return 1 if failures else 0
        console.print("Ctrl-C stops it", style="dim")
        return _stay(console, parts)


@contextmanager
def _stack(
    console: Console, settings: Settings, index: Path, vllm_python: Path, port: int
) -> Iterator[dict[str, HTTPExecutor]]:
    vllm_port, vllm_log, service_log = free_port(), LOGS / "vllm.log", LOGS / "service.log"
    environment = {
        **SERVICE_ENVIRONMENT,
        "RANKRAG_VLLM__URL": f"http://{HOST}:{vllm_port}",
        "RANKRAG_INDEX__PATH": str(index),
        "RANKRAG_CHECKPOINT": settings.checkpoint,
    }
    service = service_process(port, environment, service_log)
    console.print(f"starting vLLM with {settings.checkpoint} (half a minute; log: {vllm_log})", highlight=False)
    with TemporaryDirectory(prefix="rankrag-") as scratch:
        vllm = vllm_process(vllm_python, settings.checkpoint, vllm_port, vllm_log, Path(scratch))
        with running(vllm, "vLLM", vllm_log):
            console.print(f"starting the service (log: {service_log})", highlight=False)
            with running(service, "the service", service_log):
                yield {"vLLM": vllm, "the service": service}


def _samples(index: Path) -> list[dict[str, Any]]:
    """Some questions of the demo corpus, one a kind of thing, and one that it can't answer.

    None for another index: nobody knows what can be asked there.
    """
    if not QUESTIONS.is_file() or index.name != "demo-index":
        return []
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    answerable = [row for row in rows if row["answerable"]]
    unanswerable = [row for row in rows if not row["answerable"]]
    step = max(len(answerable) // (NUM_SAMPLES - 1), 1)
    return answerable[::step][: NUM_SAMPLES - 1] + unanswerable[:1]


def ask_samples(console: Console, url: str, samples: Sequence[dict[str, Any]]) -> int:
    """Ask and show each; how many requests failed or came back without what an answer must have."""
    failures = 0
    for sample in samples:
        try:
            body = _ask(url, sample["question"])
        except (httpx.HTTPError, EngineError) as exc:
            console.print(f"[red]failed:[/] {escape(sample['question'])}: {escape(str(exc))}", highlight=False)
            failures += 1
        else:
            expected = sample["answers"][0] if sample["answers"] else "no answer in the corpus"
            show_answer(console, sample["question"], body, expected)
    return failures


def _ask(url: str, question: str) -> dict[str, Any]:
    response = httpx.post(f"{url}/answer", json={"question": question}, timeout=60)
    body: dict[str, Any] = response.json()
    if response.is_error:
        raise EngineError(str(body.get("message", body)))
    if not body["answer"] or not body["passages"] or body["degraded"]:
        raise EngineError("the answer is empty or degraded")
    return body


def _stay(console: Console, parts: dict[str, HTTPExecutor]) -> int:
    """Until a signal; or 1 when a part dies, since the rest is of no use without it."""
    while True:
        for name, process in parts.items():
            if not process.running():
                log = LOGS / ("vllm.log" if name == "vLLM" else "service.log")
                console.print(f"[red]{name} died.[/] The end of {log}:\n{escape(tail(log))}", highlight=False)
                return 1
        time.sleep(WATCH_INTERVAL_S)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the block in good order: every part is stopped, then the process ends with 0."""

    def stop(_: int, __: FrameType | None) -> None:
        sys.exit(0)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
