"""How long a request may take: by its body, its header or the settings."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from service.api.deadline import Deadline, while_connected
from service.errors import DeadlineError
from service.settings import LimitSettings, Settings
from tests.fakes import FakeServices

ANSWER: dict[str, Any] = {"question": "mont blanc rises"}
RERANK: dict[str, Any] = {"query": "mont blanc rises", "documents": ["The Rhine is a river.", "Mont Blanc rises."]}
REQUESTS = [("/answer", ANSWER), ("/answer", {**ANSWER, "stream": True}), ("/rerank", RERANK)]
DEFAULT_S = Settings().request_timeout_s
MAX_MS = LimitSettings().max_deadline_ms


def time_given_s(fakes: FakeServices, path: str) -> float:
    """From the start of the request, which is now: the fakes' clock stands still."""
    deadline_s = fakes.scorer.deadlines_s[0] if path == "/rerank" else fakes.generator.calls[0][3]
    return deadline_s - fakes.clock()


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize(
    ("in_body", "header", "expected_s"),
    [
        ({}, None, DEFAULT_S),
        ({"deadline_ms": None}, None, DEFAULT_S),
        ({"deadline_ms": 8400}, None, 8.4),
        ({"deadline_ms": 8400.0}, None, 8.4),
        ({"deadline_ms": MAX_MS}, None, MAX_MS / 1000),
        ({}, "8400", 8.4),
        ({}, "8400.0", 8.4),
        ({}, str(MAX_MS), MAX_MS / 1000),
        ({"deadline_ms": None}, "8400", 8.4),
        ({"deadline_ms": 8400}, "5000", 8.4),
    ],
)
async def test_body_goes_before_header_before_settings(
    client: httpx.AsyncClient, fakes: FakeServices, path: str, body: Any, in_body: Any, header: str | None,
    expected_s: float,
) -> None:  # fmt: skip
    headers = {"X-Deadline-Ms": header} if header else {}
    assert (await client.post(path, json={**body, **in_body}, headers=headers)).status_code == 200
    assert time_given_s(fakes, path) == pytest.approx(expected_s)


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize(
    ("value", "limit"), [(0, 1), (-1, 1), (MAX_MS + 1, MAX_MS), (1.5, None), ("soon", None), ("", None)]
)
@pytest.mark.parametrize("param", ["deadline_ms", "X-Deadline-Ms"])
async def test_other_times_are_refused_by_name_and_limit(
    client: httpx.AsyncClient, fakes: FakeServices, path: str, body: Any, param: str, value: Any, limit: int | None
) -> None:
    is_header = param == "X-Deadline-Ms"
    extra = {"deadline_ms": 8400} if is_header else {"deadline_ms": value}  # the header is checked all the same
    headers = {param: str(value)} if is_header else {}
    response = await client.post(path, json={**body, **extra}, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["limit"]) == (422, param, limit)
    assert error["message"].startswith(f"{param}: ")
    assert (fakes.encoder.calls, fakes.scorer.calls) == ([], [])


@pytest.mark.parametrize(("path", "body"), [("/answer", ANSWER), ("/rerank", RERANK)])
@pytest.mark.parametrize(("in_body", "header"), [({"deadline_ms": 30}, "9000"), ({}, "30")])
async def test_error_says_the_time_that_the_request_had(
    client: httpx.AsyncClient, fakes: FakeServices, path: str, body: Any, in_body: Any, header: str
) -> None:
    fakes.encoder.delay_s = fakes.scorer.delay_s = 60
    begun_s = time.monotonic()
    response = await client.post(path, json={**body, **in_body}, headers={"X-Deadline-Ms": header})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "0.03 s" in response.json()["message"]
    assert time.monotonic() - begun_s < 5
    assert fakes.scorer.num_running == 0


async def test_stream_says_the_time_that_the_request_had(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.encoder.delay_s = 60
    response = await client.post("/answer", json={**ANSWER, "stream": True, "deadline_ms": 30})
    assert "event: error" in response.text
    assert "0.03 s" in response.text


async def test_limit_has_a_grace_on_top() -> None:
    deadline = Deadline(time.monotonic() + 0.02, 0.02)
    async with deadline.limit(time.monotonic, grace_s=30):
        await asyncio.sleep(0.05)
    with pytest.raises(DeadlineError, match=r"0\.02 s"):
        async with deadline.limit(time.monotonic):
            await asyncio.sleep(30)


class Connection:
    """The receiving side of one request whose body has been read."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()

    def hang_up(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    def request(self) -> Request:
        return Request({"type": "http", "headers": []}, self.messages.get)


async def wait_while_connected(connection: Connection, seconds: float) -> None:
    async with while_connected(connection.request()):
        await asyncio.sleep(seconds)


async def test_work_ends_with_its_client() -> None:
    connection = Connection()
    work = asyncio.create_task(wait_while_connected(connection, 60))
    await asyncio.sleep(0)
    connection.hang_up()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(work, 5)
    assert work.cancelling() == 0


async def test_other_messages_end_nothing() -> None:
    connection = Connection()
    connection.messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    await wait_while_connected(connection, 0.01)
    assert connection.messages.empty()


async def test_nobody_listens_once_the_work_is_done() -> None:
    before, connection = asyncio.all_tasks(), Connection()
    await wait_while_connected(connection, 0)
    assert asyncio.all_tasks() == before
    connection.hang_up()
    await asyncio.sleep(0)
    assert not connection.messages.empty()


@pytest.mark.parametrize("also_hangs_up", [False, True])
async def test_cancelled_by_the_server_is_no_lost_client(also_hangs_up: bool) -> None:
    connection = Connection()
    work = asyncio.create_task(wait_while_connected(connection, 60))
    for _ in range(3):
        await asyncio.sleep(0)
    if also_hangs_up:
        connection.hang_up()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_error_of_the_work_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        async with while_connected(Connection().request()):
            raise ZeroDivisionError
