"""SIGTERM under load: the real process, told to end, loses nothing that it has taken.

A slow machine may refuse some of the load (429), which is an answer, too: what counts is that each caller gets one.
"""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from mirakuru import HTTPExecutor

from service.local_stack import HOST, free_port, running, service_process
from tests.integration.conftest import Settings

DELAY_S = 2.0
INTERVAL_S = 0.1
PAIRS = {"query": "How high is Mont Blanc?", "documents": ["Mont Blanc is high.", "The Rhine is long."]}


@dataclass
class Seen:
    """What callers got, and when the first of them saw readiness go."""

    statuses: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    red_s: float | None = None


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def started(
    request: pytest.FixtureRequest, settings: Settings, tmp_path: Path
) -> Iterator[tuple[HTTPExecutor, str, Path]]:
    port, log = free_port(), tmp_path / "service.log"
    environment = {
        **settings,
        "RANKRAG_SHUTDOWN__DELAY_S": str(DELAY_S),
        "RANKRAG_WORKERS": str(request.param),
    }
    process = service_process(port, environment, log)
    with running(process, "the service", log):
        yield process, f"http://{HOST}:{port}", log


async def ask(client: httpx.AsyncClient, number: int, seen: Seen) -> None:
    """Every third one streams; none is answered from the cache."""
    try:
        if number % 3:
            body = {**PAIRS, "query": f"{PAIRS['query']} ({number})", "cache": False}
            response = await client.post("/rerank", json=body)
        else:
            body = {"question": f"How high is Mont Blanc? ({number})", "stream": True, "cache": False}
            response = await client.post("/answer", json=body)
            refused = response.status_code == httpx.codes.TOO_MANY_REQUESTS
            seen.ends["refused" if refused else last_event(response.text)] += 1
        seen.statuses[response.status_code] += 1
    except httpx.HTTPError as exc:
        seen.broken.append(f"{number}: {exc!r}")


def last_event(text: str) -> str:
    return text.rstrip().rpartition("event: ")[2].split()[0]


async def watch(client: httpx.AsyncClient, seen: Seen, begun_s: float) -> None:
    """As a balancer does."""
    while seen.red_s is None:
        if (await client.get("/readyz")).status_code == 503:
            seen.red_s = time.monotonic() - begun_s
        await asyncio.sleep(INTERVAL_S)


async def load(url: str, process: HTTPExecutor, seen: Seen) -> None:
    """Requests at a steady rate; SIGTERM in the middle; no new ones once readiness has been red for a while."""
    assert process.process is not None
    async with httpx.AsyncClient(base_url=url, timeout=30) as client, asyncio.TaskGroup() as group:
        number, end_s = 0, time.monotonic() + 2
        while time.monotonic() < end_s:
            group.create_task(ask(client, number := number + 1, seen))
            await asyncio.sleep(INTERVAL_S)
        process.process.send_signal(signal.SIGTERM)
        group.create_task(watch(client, seen, time.monotonic()))
        end_s = time.monotonic() + DELAY_S * 0.75
        while time.monotonic() < end_s:
            group.create_task(ask(client, number := number + 1, seen))
            await asyncio.sleep(INTERVAL_S)


@pytest.mark.threat("T24")
async def test_sigterm_under_load_loses_no_request(started: tuple[HTTPExecutor, str, Path]) -> None:
    process, url, log = started
    seen = Seen()
    await load(url, process, seen)
    assert process.process is not None
    assert await asyncio.to_thread(process.process.wait, 20) == 0
    assert seen.broken == []
    assert set(seen.statuses) <= {200, 429}, seen.statuses
    assert seen.statuses[200] > seen.statuses[429], seen.statuses
    assert set(seen.ends) <= {"final", "refused"}, seen.ends
    assert seen.red_s is not None
    assert seen.red_s < 0.5
    requests = [line for line in logged(log) if line.get("event") == "request" and line["route"] != "/readyz"]
    assert Counter(line["status"] for line in requests) == seen.statuses


def logged(log: Path) -> list[dict[str, object]]:
    lines = log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]
