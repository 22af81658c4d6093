"""Around every request: its id, the bound on its body, its metrics."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from service.app import MAX_REQUEST_ID_CHARS, create_app, is_request_id
from service.settings import LimitSettings, Settings
from tests.fakes import FakeServices, client_of

RERANK = {"query": "q", "documents": ["d"]}
MAX_BODY_BYTES = 1000
MAX_HEADER_BYTES = 2000


async def chunks(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b" " * size


@pytest.fixture
def app(fakes: FakeServices) -> FastAPI:
    limits = LimitSettings(
        max_body_bytes=MAX_BODY_BYTES, max_header_bytes=MAX_HEADER_BYTES, max_headers=20, body_timeout_s=0.05
    )  # fmt: skip
    return create_app(Settings(limits=limits), fakes.open)


# Request ids


@pytest.mark.parametrize("given_id", ["abc", "A-b_9", "x" * MAX_REQUEST_ID_CHARS])
async def test_callers_id_comes_back_in_header_and_body(client: httpx.AsyncClient, given_id: str) -> None:
    response = await client.post("/rerank", json=RERANK, headers={"X-Request-ID": given_id})
    assert response.headers.get_list("X-Request-ID") == [given_id]
    assert response.json()["id"] == given_id


@pytest.mark.parametrize("odd", ["", "a b", "x" * (MAX_REQUEST_ID_CHARS + 1), "a\tb", "é", "<b>", "a;b", "-", "{id}"])
async def test_odd_id_is_replaced(client: httpx.AsyncClient, odd: str) -> None:
    headers = [(b"X-Request-ID", odd.encode("latin-1"))]
    response = await client.post("/rerank", json=RERANK, headers=headers)
    assert response.status_code == 200
    replaced = response.headers["X-Request-ID"]
    assert replaced != odd
    assert is_request_id(replaced)


async def test_every_request_without_an_id_gets_its_own(client: httpx.AsyncClient) -> None:
    ids = {(await client.get("/livez")).headers["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.threat("T16")
@given(st.text(max_size=MAX_REQUEST_ID_CHARS + 5))
def test_accepted_ids_are_safe_in_a_log_line(text: str) -> None:
    if is_request_id(text):
        assert 0 < len(text) <= MAX_REQUEST_ID_CHARS
        assert text.isprintable()
        assert text.isascii()
        assert not set(text) & set("\"'{}\\ <>")


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [("GET", "/nothing", b""), ("GET", "/answer", b""), ("POST", "/answer", b"{"), ("POST", "/answer", b"x" * 2000)],
)
async def test_errors_carry_the_id_once(client: httpx.AsyncClient, method: str, path: str, content: bytes) -> None:
    response = await client.request(method, path, content=content, headers={"X-Request-ID": "my-id"})
    assert response.status_code >= 400
    assert response.headers.get_list("X-Request-ID") == ["my-id"]
    assert response.json()["request_id"] == "my-id"


async def test_unexpected_errors_carry_the_id_once(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = RuntimeError("bug")
    response = await client.post("/rerank", json=RERANK, headers={"X-Request-ID": "my-id"})
    assert response.status_code == 500
    assert response.headers.get_list("X-Request-ID") == ["my-id"]
    assert response.json()["request_id"] == "my-id"


# Bodies


async def test_body_too_large_by_its_content_length_is_a_413(client: httpx.AsyncClient) -> None:
    response = await client.post("/rerank", content=b" " * (MAX_BODY_BYTES + 1))
    assert (response.status_code, response.json()["error"]["limit"]) == (413, MAX_BODY_BYTES)


async def test_body_too_large_without_a_content_length_is_a_413(client: httpx.AsyncClient) -> None:
    response = await client.post("/rerank", content=chunks(600, 600))
    assert "Content-Length" not in response.request.headers
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.threat("T08")
async def test_body_too_large_is_not_read_to_its_end(client: httpx.AsyncClient) -> None:
    num_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_read
        while True:
            num_read += 1
            yield b" " * 100

    assert (await client.post("/rerank", content=endless())).status_code == 413
    assert num_read <= MAX_BODY_BYTES // 100 + 2


async def test_body_in_pieces_within_the_limit_is_one_body(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"query": "q", ', b"", b'"documents"', b': ["d"]}'):
            yield piece

    response = await client.post("/rerank", content=pieces(), headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(("size", "status"), [(MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)])
async def test_limit_is_exact(client: httpx.AsyncClient, size: int, status: int) -> None:
    body = b'{"query": "q", "documents": ["d"]}'
    response = await client.post(
        "/rerank", content=body + b" " * (size - len(body)), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == status


async def test_body_too_large_is_counted(client: httpx.AsyncClient) -> None:
    await client.post("/rerank", content=b" " * (MAX_BODY_BYTES + 1))
    assert 'rankrag_errors_total{code="request_too_large"} 1.0' in (await client.get("/metrics")).text


@pytest.mark.threat("T09")
async def test_body_that_does_not_come_is_a_408(client: httpx.AsyncClient) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b'{"query": "q",'
        await asyncio.sleep(5)
        yield b'"documents": ["d"]}'

    response = await client.post("/rerank", content=slow())
    assert (response.status_code, response.json()["error"]["code"]) == (408, "request_timeout")
    assert response.headers["Connection"] == "close"


# Headers


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/rerank", {"X-Long": "x" * MAX_HEADER_BYTES}),
        ("/rerank?" + "x" * MAX_HEADER_BYTES, {}),
        ("/" + "x" * MAX_HEADER_BYTES, {}),
        ("/rerank", {f"X-{number}": "" for number in range(20)}),
    ],
)
@pytest.mark.threat("T08")
async def test_too_much_before_the_body_is_a_431(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    response = await client.post(path, json=RERANK, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (431, "headers_too_large")
    assert response.json()["error"]["limit"] in (20, MAX_HEADER_BYTES)
    assert 'rankrag_errors_total{code="headers_too_large"} 1.0' in (await client.get("/metrics")).text


# Metrics


async def test_requests_are_counted_by_route_and_status_and_never_by_path(client: httpx.AsyncClient) -> None:
    await client.post("/rerank", json=RERANK)
    await client.post("/rerank", json={})
    await client.get("/secret-path")
    metrics = (await client.get("/metrics")).text
    assert 'rankrag_requests_total{route="/rerank",status="200"} 1.0' in metrics
    assert 'rankrag_requests_total{route="/rerank",status="422"} 1.0' in metrics
    assert 'rankrag_requests_total{route="unmatched",status="404"} 1.0' in metrics
    assert 'rankrag_request_seconds_count{route="/rerank"} 2.0' in metrics
    assert "secret-path" not in metrics


async def test_requests_under_way_are_back_at_none_after_errors(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = RuntimeError("bug")
    await client.post("/rerank", json=RERANK)
    assert "rankrag_requests_in_flight 1.0" in (await client.get("/metrics")).text  # this very request


async def test_two_apps_do_not_share_their_metrics() -> None:
    async with client_of(create_app(Settings(), FakeServices().open)) as one:
        await one.post("/rerank", json=RERANK)
    async with client_of(create_app(Settings(), FakeServices().open)) as other:
        assert 'route="/rerank"' not in (await other.get("/metrics")).text
