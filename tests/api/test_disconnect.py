"""Clients that hang up: what was begun for them ends, and nothing is sent."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message, Scope

from tests.fakes import FakeGenerator, FakeScorer, FakeServices

ANSWER: dict[str, Any] = {"question": "mont blanc rises"}
RERANK: dict[str, Any] = {"query": "mont blanc rises", "documents": ["The Rhine is a river.", "Mont Blanc rises."]}
PROMPTLY_S = 2.0


class Caller:
    """A client as the server presents it to the app, which can hang up."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []

    def send_body(self, body: bytes, *, more_body: bool = False) -> None:
        self.received.put_nowait({"type": "http.request", "body": body, "more_body": more_body})

    def hang_up(self) -> None:
        self.received.put_nowait({"type": "http.disconnect"})

    async def take(self, message: Message) -> None:
        self.sent.append(message)

    def scope(self) -> Scope:
        return {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": self.path, "raw_path": self.path.encode(), "query_string": b"", "root_path": "",
            "headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1), "server": ("here", 80),
        }  # fmt: skip

    def call(self, app: FastAPI) -> "asyncio.Task[None]":
        return asyncio.create_task(app(self.scope(), self.received.get, self.take))


def begun(fake: FakeScorer | FakeGenerator) -> asyncio.Event:
    """Set when `fake` is at work, which then takes longer than any test."""
    event = asyncio.Event()
    fake.delay_s, fake.meanwhile = 60, event.set
    return event


async def count_of(client: httpx.AsyncClient, route: str, status: int) -> bool:
    metrics = (await client.get("/metrics")).text
    return f'rankrag_requests_total{{route="{route}",status="{status}"}} 1.0' in metrics


@pytest.mark.parametrize(("path", "body"), [("/rerank", RERANK), ("/answer", ANSWER)])
@pytest.mark.threat("T12")
async def test_client_that_hangs_up_ends_its_scoring(
    client: httpx.AsyncClient, app: FastAPI, fakes: FakeServices, path: str, body: Any
) -> None:
    is_begun, caller = begun(fakes.scorer), Caller(path)
    caller.send_body(json.dumps(body).encode())
    call = caller.call(app)
    await asyncio.wait_for(is_begun.wait(), PROMPTLY_S)
    assert fakes.scorer.num_running == 1
    caller.hang_up()
    await asyncio.wait_for(call, PROMPTLY_S)
    assert (fakes.scorer.num_running, caller.sent) == (0, [])
    assert await count_of(client, path, 499)
    metrics = (await client.get("/metrics")).text
    assert re.findall(r"^rankrag_errors_total\{.* (?!0\.0$).*$", metrics, re.MULTILINE) == []
    assert "rankrag_requests_in_flight 1.0" in metrics  # this very request


@pytest.mark.threat("T12")
async def test_client_that_hangs_up_ends_its_answer(
    client: httpx.AsyncClient, app: FastAPI, fakes: FakeServices
) -> None:
    is_begun, caller = begun(fakes.generator), Caller("/answer")
    caller.send_body(json.dumps(ANSWER).encode())
    call = caller.call(app)
    await asyncio.wait_for(is_begun.wait(), PROMPTLY_S)
    assert fakes.generator.num_open == 1
    caller.hang_up()
    await asyncio.wait_for(call, PROMPTLY_S)
    assert (fakes.generator.num_open, caller.sent, fakes.answers.num_puts) == (0, [], 0)
    assert await count_of(client, "/answer", 499)


@pytest.mark.parametrize("stage", ["scorer", "generator"])
@pytest.mark.threat("T12")
async def test_client_that_hangs_up_ends_its_stream(
    client: httpx.AsyncClient, app: FastAPI, fakes: FakeServices, stage: str
) -> None:
    is_begun, caller = begun(getattr(fakes, stage)), Caller("/answer")
    caller.send_body(json.dumps({**ANSWER, "stream": True}).encode())
    call = caller.call(app)
    await asyncio.wait_for(is_begun.wait(), PROMPTLY_S)
    assert fakes.scorer.num_running + fakes.generator.num_open == 1
    assert any(b"event: search_results" in message.get("body", b"") for message in caller.sent)
    caller.hang_up()
    await asyncio.wait_for(call, PROMPTLY_S)
    assert (fakes.scorer.num_running, fakes.generator.num_open) == (0, 0)
    assert not any(b"event: final" in message.get("body", b"") for message in caller.sent)
    assert await count_of(client, "/answer", 200)


async def test_client_that_hangs_up_before_its_body_is_there_asks_nothing(
    client: httpx.AsyncClient, app: FastAPI, fakes: FakeServices
) -> None:
    caller = Caller("/rerank")
    caller.send_body(b'{"query": "q", ', more_body=True)
    caller.hang_up()
    await asyncio.wait_for(caller.call(app), PROMPTLY_S)
    assert (fakes.scorer.calls, caller.sent) == ([], [])
    assert await count_of(client, "/rerank", 499)


async def test_client_that_stays_is_answered_and_listened_to_no_longer(
    client: httpx.AsyncClient, app: FastAPI, fakes: FakeServices
) -> None:
    fakes.scorer.delay_s = 0.01
    caller = Caller("/rerank")
    caller.send_body(json.dumps(RERANK).encode())
    before = asyncio.all_tasks()
    await asyncio.wait_for(caller.call(app), PROMPTLY_S)
    assert caller.sent[0]["status"] == 200
    assert asyncio.all_tasks() == before
    assert await count_of(client, "/rerank", 200)
