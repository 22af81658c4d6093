"""The generator's process, with Locust in it, against a server that is slow, refuses, streams and hangs up."""

import asyncio
import json
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.outcomes import End, Visit, read_visit
from tests.integration.conftest import ROOT
from tests.listening import HOST, listening

SLOW_S = 0.4
PLAN = {
    "seed": 1, "api_key": "of-the-test",  # pragma: allowlist secret
    "questions": ["a?", "b?", "c?"], "passages": ["one", "two", "three", "four"],
    "name": "run", "fresh_every_s": 20,
    "locustfile": "", "mix": {"answer": 1}, "zipf": 1.0, "cache": True, "top_n": 4, "top_k": 2, "max_tokens": 8,
    "documents": 2, "deadline_s": 3.0, "closed_users": 0, "moments": [],
}  # fmt: skip
ANSWER = {"answer": "x", "cached": True, "degraded": ["rerank_skipped"]}
OWN = """
from locust import task
from loadtest.open_loop import Arrival, OpenLoopUser

class Own(OpenLoopUser):
    @task
    def two_calls(self, arrival: Arrival) -> None:
        self.client.post("/rerank", json={"query": "own", "documents": ["x"]})
        self.client.post("/refused", json={})
"""


class Server:
    """Keeps what it was asked. One response a connection."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str] = set()

    async def answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        path = head.split()[1]
        self.asked.append((path, body))
        self.keys.add(headers.get("authorization", ""))
        if body.get("stream"):
            await self._stream(writer)
        elif path != "/hangup":
            await asyncio.sleep(SLOW_S if path == "/answer" else 0)
            _respond(writer, "429 Too Many Requests" if path == "/refused" else "200 OK", json.dumps(ANSWER))

    async def _stream(self, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n")
        for kind, data in (("search_results", {}), ("answer.delta", {"text": "x"}), ("final", ANSWER)):
            writer.write(f"event: {kind}\r\ndata: {json.dumps(data)}\r\n\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.1)


def _respond(writer: StreamWriter, status: str, body: str) -> None:
    writer.write(
        f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    yield Server()


async def generate(server: Server, tmp_path: Path, **changes: Any) -> list[Visit]:
    async with listening(server.answer) as port:
        (tmp_path / "plan.json").write_text(json.dumps({**PLAN, "url": f"http://{HOST}:{port}", **changes}))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtest.generate", str(tmp_path / "plan.json"), str(tmp_path / "visits.jsonl"),
            cwd=ROOT,
        )  # fmt: skip
        assert await asyncio.wait_for(process.wait(), 60) == 0
    return [read_visit(json.loads(row)) for row in (tmp_path / "visits.jsonl").read_text().splitlines()]


async def test_an_open_loop_waits_for_nobody_and_counts_from_the_due_moment(server: Server, tmp_path: Path) -> None:
    due = [0.05 * number for number in range(10)]
    visits = sorted(await generate(server, tmp_path, moments=due), key=lambda one: one.due_s)
    assert [visit.due_s for visit in visits] == due
    assert {visit.end for visit in visits} == {End.OK}
    assert all(visit.e2e_s >= SLOW_S for visit in visits)
    assert visits[-1].sent_s < visits[0].done_s + SLOW_S
    assert {visit.notes for visit in visits} == {("cached", "rerank_skipped")}
    assert server.keys == {"bearer of-the-test"}
    body = server.asked[0][1]
    assert (body["top_n"], body["top_k"], body["max_tokens"], body["deadline_ms"]) == (4, 2, 8, 3000)


async def test_the_same_seed_asks_the_same(server: Server, tmp_path: Path) -> None:
    mix, due = {"answer": 2, "stream": 1, "rerank": 1}, [0.02 * number for number in range(20)]
    first = await generate(server, tmp_path, mix=mix, moments=due)
    asked, server.asked = server.asked, []
    second = await generate(server, tmp_path, mix=mix, moments=due)
    assert sorted(asked, key=repr) == sorted(server.asked, key=repr)
    assert sorted((one.due_s, one.task) for one in first) == sorted((one.due_s, one.task) for one in second)
    assert {one.task for one in first} == set(mix)


async def test_a_stream_has_a_time_to_its_first_words(server: Server, tmp_path: Path) -> None:
    (visit,) = await generate(server, tmp_path, mix={"stream": 1}, moments=[0.0])
    assert visit.end is End.OK
    assert visit.ttft_s is not None
    assert visit.ttft_s < visit.e2e_s
    assert visit.notes == ("cached", "rerank_skipped")


async def test_a_closed_loop_has_so_many_users(server: Server, tmp_path: Path) -> None:
    visits = await generate(server, tmp_path, closed_users=3, seconds=1.0)
    assert 6 <= len(visits) <= 9
    assert all(visit.e2e_s == pytest.approx(visit.done_s - visit.sent_s, abs=0.05) for visit in visits)


async def test_own_scenarios_are_ordinary_locust_tasks(server: Server, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    visits = await generate(server, tmp_path, locustfile=str(tmp_path / "own.py"), moments=[0.0, 0.1])
    assert [path for path, _ in server.asked] == ["/rerank", "/refused"] * 2
    assert {(visit.task, visit.end, len(visit.exchanges)) for visit in visits} == {("two_calls", End.REFUSED, 2)}


async def test_nobody_there_is_unanswered(server: Server, tmp_path: Path) -> None:
    (visit,) = await generate(server, tmp_path, moments=[0.0], url="http://127.0.0.1:1")
    assert visit.end is End.UNANSWERED
