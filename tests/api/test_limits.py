"""Every limit: what is just within passes, what is beyond is refused by name and number."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import LimitSettings, Settings
from tests.fakes import FakeServices, client_of

LIMITS = LimitSettings(
    max_question_chars=10, max_document_chars=20, max_documents=3, max_body_bytes=2000, max_top_n=7, max_top_k=4,
    max_answer_tokens=5, max_filters=2, max_filter_depth=3, max_messages_chars=15, max_deadline_ms=5000, max_chunks=9,
)  # fmt: skip


@pytest.fixture
def app(fakes: FakeServices) -> FastAPI:
    return create_app(Settings(limits=LIMITS), fakes.open)


def nested(depth: int) -> dict[str, Any]:
    return {"not": nested(depth - 1)} if depth > 1 else {"a": 1}


CHUNKED = {"query": "q", "max_tokens_per_doc": 1, "long_documents": "max_chunk"}


def said(num_chars: int) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": "a" * num_chars}]


CASES = [
    ("/answer", lambda n: {"question": "q" * n}, "question", 10, 422),
    ("/answer", lambda n: {"messages": [{"role": "user", "content": "q" * n}]}, "messages.0.content", 10, 422),
    ("/answer", lambda n: {"messages": [*said(n - 1), {"role": "user", "content": "q"}]}, "messages", 15, 422),
    ("/answer", lambda n: {"question": "q", "top_n": n}, "top_n", 7, 422),
    ("/answer", lambda n: {"question": "q", "top_k": n}, "top_k", 4, 422),
    ("/answer", lambda n: {"question": "q", "max_tokens": n}, "max_tokens", 5, 422),
    ("/answer", lambda n: {"question": "q", "filters": {str(i): 1 for i in range(n)}}, "filters", 2, 422),
    ("/search", lambda n: {"query": "q" * n}, "query", 10, 422),
    ("/search", lambda n: {"query": "q", "top_n": n}, "top_n", 7, 422),
    ("/search", lambda n: {"query": "q", "deadline_ms": n}, "deadline_ms", 5000, 422),
    ("/search", lambda n: {"query": "q", "filters": {"a": 1, "or": [{"b": 1}] * (n - 1)}}, "filters", 2, 422),
    ("/search", lambda n: {"query": "q", "filters": nested(n)}, "filters", 3, 422),
    ("/answer", lambda n: {"question": "q", "deadline_ms": n}, "deadline_ms", 5000, 422),
    ("/answer", lambda n: {"question": "q", "passages": [{"text": "t"}] * n}, "passages", 7, 422),
    ("/answer", lambda n: {"question": "q", "passages": [{"text": "t" * n}]}, "passages.0", 20, 422),
    (
        "/answer",
        lambda n: {"question": "q", "passages": [{"title": "t", "text": "t" * (n - 1)}]},
        "passages.0",
        20,
        422,
    ),
    ("/rerank", lambda n: {"query": "q" * n, "documents": ["d"]}, "query", 10, 422),
    ("/rerank", lambda n: {"query": "q", "documents": ["d"], "deadline_ms": n}, "deadline_ms", 5000, 422),
    ("/rerank", lambda n: {"query": "q", "documents": ["d"] * n}, "documents", 3, 413),
    ("/rerank", lambda n: {**CHUNKED, "documents": ["d d d", "d " * (n - 3)]}, "documents", 9, 413),
    ("/rerank", lambda n: {"query": "q", "documents": ["d", "d" * n]}, "documents.1", 20, 422),
    ("/rerank", lambda n: {"query": "q", "documents": [{"text": "d" * n}]}, "documents.0", 20, 422),
    ("/rerank", lambda n: {"query": "q", "documents": [{"text": "d", "title": "t" * (n - 1)}]}, "documents.0", 20, 422),
]


@pytest.mark.parametrize(("path", "body", "field", "limit", "status"), CASES, ids=lambda value: str(value)[:20])
async def test_request_beyond_a_limit_is_refused_with_field_and_limit(
    client: httpx.AsyncClient, fakes: FakeServices, path: str, body: Any, field: str, limit: int, status: int
) -> None:
    response = await client.post(path, json=body(limit + 1))
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["limit"]) == (status, field, limit)
    assert field in error["message"]
    assert str(limit) in error["message"]
    assert (fakes.scorer.calls, fakes.encoder.calls) == ([], [])


@pytest.mark.parametrize(("path", "body", "field", "limit", "status"), CASES, ids=lambda value: str(value)[:20])
async def test_request_at_a_limit_passes(
    client: httpx.AsyncClient, path: str, body: Any, field: str, limit: int, status: int
) -> None:
    del field, status
    assert (await client.post(path, json=body(limit))).status_code == 200


async def test_body_beyond_its_limit_is_refused_with_the_limit(client: httpx.AsyncClient) -> None:
    response = await client.post("/rerank", json={"query": "q", "documents": ["d"], "padding": "x" * 2000})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["limit"]) == (413, "body", 2000)


async def test_stream_beyond_a_limit_is_refused_before_it_begins(client: httpx.AsyncClient) -> None:
    response = await client.post("/answer", json={"question": "q", "top_k": 5, "stream": True})
    assert (response.status_code, response.headers["Content-Type"]) == (422, "application/json")


# Of what comes before the body, and how fast it comes: test_middleware.py, ../test_server.py.
ELSEWHERE = {"max_header_bytes", "max_headers", "head_timeout_s", "idle_timeout_s", "body_timeout_s"}


def test_every_limit_is_tried_here() -> None:
    tried = {limit for _, _, _, limit, _ in CASES} | {2000}
    assert tried == set(LIMITS.model_dump(exclude=ELSEWHERE).values())


async def test_blank_question_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/answer", json={"question": " \n\t "})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "question")
    assert "blank" in response.json()["message"]


async def test_defaults_are_within_the_default_limits() -> None:
    settings = Settings()
    assert settings.top_n <= settings.limits.max_top_n
    assert settings.top_k <= settings.limits.max_top_k
    assert settings.max_tokens <= settings.limits.max_answer_tokens


async def test_client_of_another_app_has_its_own_limits(fakes: FakeServices) -> None:
    async with client_of(create_app(Settings(), fakes.open)) as client:
        assert (await client.post("/answer", json={"question": "q" * 11})).status_code == 200
