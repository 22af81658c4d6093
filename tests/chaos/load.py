"""Steady load: requests at their moments, whatever became of those before."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from loadtest.drive import open_client
from tests.chaos.asks import DEADLINE_S, Ask
from tests.chaos.verdicts import GRACE_S, Reply

# A client that waits for ever would not show that it was hung.
PATIENCE_S = DEADLINE_S + GRACE_S + 2.0


@dataclass(slots=True)
class Load:
    """Poisson arrivals at `rate` a second; every request with what came of it is in `replies`."""

    url: str
    asks: Iterator[Ask]
    rate: float
    rng: random.Random
    replies: list[tuple[Ask, Reply]] = field(default_factory=list)
    num_sent: int = 0
    may_send: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_send.set()

    async def drained(self) -> None:
        """Waits, sending nothing new, for the end of all that was sent: no request meets two faults."""
        self.may_send.clear()
        while self.num_sent > len(self.replies):  # noqa: ASYNC110 (a count sets no event)
            await asyncio.sleep(0.01)
        self.may_send.set()

    async def run(self, until: asyncio.Event) -> None:
        """Until the event is set and everybody has been answered."""
        async with (
            open_client(self.url, max_connections=None, timeout_s=PATIENCE_S) as http,
            asyncio.TaskGroup() as callers,
        ):
            due_s = time.monotonic()
            while not until.is_set():
                due_s += self.rng.expovariate(self.rate)
                await asyncio.sleep(due_s - time.monotonic())
                if not self.may_send.is_set():
                    await self.may_send.wait()
                    due_s = time.monotonic()
                callers.create_task(self._call(http, next(self.asks), due_s))
                self.num_sent += 1

    async def _call(self, http: httpx.AsyncClient, ask: Ask, due_s: float) -> None:
        self.replies.append((ask, await send(http, ask, due_s)))


async def send(http: httpx.AsyncClient, ask: Ask, due_s: float) -> Reply:
    """One request. What it ends with is a value, whatever it is."""
    sent_s, status, body, reason = time.monotonic(), None, "", ""
    try:
        async with asyncio.timeout(PATIENCE_S):
            response = await http.post(ask.path, json=ask.body)
        status, body = response.status_code, response.text
    except (httpx.HTTPError, TimeoutError) as exc:
        reason = f"{type(exc).__name__} {exc}".strip()
    return Reply(due_s, sent_s, time.monotonic(), status, body, reason)
