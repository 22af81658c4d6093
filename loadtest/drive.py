"""The load generator: calls over HTTP, closed loop (as fast as answers come) or open loop (at their moments)."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

# Below the servers' own 5 s: a connection that the server is just closing would cost a request.
KEEPALIVE_S = 2.0


class Reply(StrEnum):
    """What became of a call."""

    OK = "ok"
    PARTIAL = "partial"
    REFUSED = "refused"
    TIMED_OUT = "timed out"
    ERROR = "error"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Call:
    """One POST. A complete answer has `num_pairs` rows under `rows`, each with `field`."""

    path: str
    body: Mapping[str, Any]
    num_pairs: int
    rows: str
    field: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds since the drive began. In a closed loop a call is scheduled when it is sent."""

    num_pairs: int
    reply: Reply
    scheduled_s: float
    sent_s: float
    done_s: float

    @property
    def latency_s(self) -> float:
        """From the moment it was due: a generator that is late makes the service look no faster."""
        return self.done_s - self.scheduled_s

    @property
    def is_ok(self) -> bool:
        return self.reply is Reply.OK


@dataclass(frozen=True, slots=True)
class Drive:
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def num_pairs(self) -> int:
        return sum(outcome.num_pairs for outcome in self.outcomes)

    @property
    def num_failed(self) -> int:
        return sum(outcome.num_pairs for outcome in self.outcomes if not outcome.is_ok)


def judge(call: Call, status: int, body: Any) -> Reply:
    """What an answer is worth; a list with scores left out is partial."""
    if status == 200:
        num_scores = sum(row.get(call.field) is not None for row in body[call.rows])
        return Reply.OK if num_scores == call.num_pairs else Reply.PARTIAL
    return {429: Reply.REFUSED, 504: Reply.TIMED_OUT}.get(status, Reply.ERROR)


@asynccontextmanager
async def open_client(url: str, *, max_connections: int | None, timeout_s: float) -> AsyncIterator[httpx.AsyncClient]:
    """A client as anybody would open it; without `max_connections` no call waits for another's connection."""
    limits = httpx.Limits(
        max_connections=max_connections, max_keepalive_connections=max_connections, keepalive_expiry=KEEPALIVE_S
    )
    async with httpx.AsyncClient(base_url=url, timeout=timeout_s, limits=limits) as http:
        yield http


async def closed_loop(url: str, calls: Sequence[Call], *, concurrency: int, timeout_s: float) -> Drive:
    """So many callers, each with one call at a time, until all are done."""
    outcomes: list[Outcome] = []

    async def caller(http: httpx.AsyncClient, waiting: Iterator[Call], begun_s: float) -> None:
        for call in waiting:
            outcomes.append(await _send(http, call, time.monotonic() - begun_s, begun_s))  # noqa: PERF401 - shared

    async with open_client(url, max_connections=concurrency, timeout_s=timeout_s) as http:
        waiting, begun_s = iter(calls), time.monotonic()
        async with asyncio.TaskGroup() as callers:
            for _ in range(concurrency):
                callers.create_task(caller(http, waiting, begun_s))
        return Drive(tuple(outcomes), time.monotonic() - begun_s)


async def open_loop(
    url: str, calls: Sequence[Call], moments: Sequence[float], *, timeout_s: float, end: asyncio.Event | None = None
) -> Drive:
    """Each call at its moment, whatever became of the ones before; none is sent after `end` is set."""
    async with open_client(url, max_connections=None, timeout_s=timeout_s) as http:
        begun_s = time.monotonic()
        tasks: list[asyncio.Task[Outcome]] = []
        async with asyncio.TaskGroup() as group:
            for call, moment_s in zip(calls, moments, strict=True):
                await asyncio.sleep(begun_s + moment_s - time.monotonic())
                if end is not None and end.is_set():
                    break
                tasks.append(group.create_task(_send(http, call, moment_s, begun_s)))
        return Drive(tuple(task.result() for task in tasks), time.monotonic() - begun_s)


async def _send(http: httpx.AsyncClient, call: Call, scheduled_s: float, begun_s: float) -> Outcome:
    sent_s = time.monotonic() - begun_s
    try:
        response = await http.post(call.path, json=call.body)
        reply = judge(call, response.status_code, response.json() if response.is_success else {})
    except httpx.HTTPError:
        reply = Reply.UNANSWERED
    return Outcome(call.num_pairs, reply, scheduled_s, sent_s, time.monotonic() - begun_s)
