"""What callers see of the end of the process."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from service.api.ending import Life
from service.errors import ShuttingDownError
from tests.api.test_errors import assert_error
from tests.fakes import FakeServices, client_of, until_running

RERANK = {"query": "q", "documents": ["d"]}


def life_of(app: FastAPI) -> Life:
    life: Life = app.state.life
    return life


@pytest.mark.threat("T24")
async def test_a_process_that_ends_is_alive_and_unready_and_answers(app: FastAPI, client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).status_code == 200
    life_of(app).is_ending = True
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert "shutting down" in ready.json()["dependencies"]["process"]["detail"]
    assert (await client.get("/livez")).status_code == 200
    assert (await client.post("/rerank", json=RERANK)).status_code == 200


async def test_connections_are_not_kept_once_it_ends(app: FastAPI, client: httpx.AsyncClient) -> None:
    assert "Connection" not in (await client.post("/rerank", json=RERANK)).headers
    life_of(app).is_ending = True
    for body in ({"question": "q"}, {"question": "q", "stream": True}):
        assert (await client.post("/answer", json=body)).headers.get_list("Connection") == ["close"]


async def test_a_request_that_is_cut_off_at_the_end_is_told_so(app: FastAPI, fakes: FakeServices) -> None:
    fakes.scorer.delay_s = 60
    sent: list[dict[str, object]] = []
    async with client_of(app):
        task = asyncio.create_task(ask(app, sent))
        await until_running(fakes.scorer)
        life_of(app).is_ending = True
        task.cancel()
        await task
    assert sent[0]["status"] == ShuttingDownError.status
    assert b'"shutting_down"' in bytes(sent[1]["body"])  # type: ignore[call-overload]


async def test_a_request_that_is_cut_off_for_another_reason_is_not_answered(app: FastAPI, fakes: FakeServices) -> None:
    fakes.scorer.delay_s = 60
    sent: list[dict[str, object]] = []
    async with client_of(app):
        task = asyncio.create_task(ask(app, sent))
        await until_running(fakes.scorer)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sent == []


async def ask(app: FastAPI, sent: list[dict[str, object]]) -> None:
    """As a server does, so that its task can be cancelled."""
    body = [{"type": "http.request", "body": b'{"query": "q", "documents": ["d"]}', "more_body": False}]
    scope = {
        "type": "http", "method": "POST", "path": "/rerank", "raw_path": b"/rerank", "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "client": ("192.0.2.1", 1), "server": ("s", 80),
        "scheme": "http", "root_path": "", "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip

    async def receive() -> dict[str, object]:
        if body:
            return body.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: object) -> None:
        sent.append(dict(message))  # type: ignore[call-overload]

    await app(scope, receive, send)


async def test_the_error_is_one_of_the_tree(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = ShuttingDownError("ask again")
    assert_error(await client.post("/rerank", json=RERANK), ShuttingDownError)
