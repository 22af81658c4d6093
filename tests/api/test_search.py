"""POST /search."""

from typing import Any

import httpx
import pytest

from service.app import create_app
from service.errors import RetrievalError
from service.settings import Settings
from service.types import NO_FILTER
from tests.fakes import FakeServices, client_of
from tests.filtering import where

QUERY = "mont blanc rises"


async def test_passages_come_in_the_retrievers_order_and_nothing_is_scored(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    response = await client.post("/search", json={"query": f" {QUERY}\n", "top_n": 2})
    body = response.json()
    assert response.status_code == 200
    assert body["results"] == [
        {
            "id": "rhine", "title": "Rhine", "text": "The Rhine is a river.", "retrieval_score": 1.0,
            "retrieval_rank": 1, "metadata": {"kind": "river", "length_km": 1230},
        },
        {
            "id": "mont-blanc", "title": "Mont Blanc", "text": "Mont Blanc rises to 4,806 metres.",
            "retrieval_score": 0.5, "retrieval_rank": 2, "metadata": {"kind": "mountain"},
        },
    ]  # fmt: skip
    assert body["index_version"] == "index-1"
    assert set(body["timings_ms"]) == {"encode", "search", "total"}
    assert "encode;dur=" in response.headers["Server-Timing"]
    assert fakes.encoder.calls == [(QUERY, True)]
    assert fakes.index.calls == [(2, NO_FILTER)]
    assert (fakes.scorer.calls, fakes.scorer.admitted, fakes.generator.calls) == ([], [], [])


async def test_request_says_what_is_searched_and_how(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    filters = {"year": {"gte": 1900}}
    await client.post("/search", json={"query": QUERY, "filters": filters}, headers={"Cache-Control": "no-store"})
    assert fakes.index.calls == [(Settings().top_n, where(filters))]
    assert fakes.encoder.calls == [(QUERY, False)]


async def test_search_needs_no_engine_and_is_timed(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.refusal = RuntimeError("asked")
    assert (await client.post("/search", json={"query": QUERY})).status_code == 200
    assert 'rankrag_stage_seconds_count{stage="search"} 1.0' in (await client.get("/metrics")).text


async def test_without_an_index_nothing_is_found(fakes: FakeServices) -> None:
    fakes.has_index = False
    async with client_of(create_app(Settings(), fakes.open)) as client:
        response = await client.post("/search", json={"query": QUERY})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "index_unavailable")


async def test_broken_index_is_an_error(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.index.error = RetrievalError("the index is broken")
    response = await client.post("/search", json={"query": QUERY})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "retrieval_failed")


async def test_search_that_hangs_is_ended_at_its_deadline(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.encoder.delay_s = 60
    response = await client.post("/search", json={"query": QUERY, "deadline_ms": 50})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"query": " "}, "query"),
    ({}, "query"),
    ({"query": QUERY, "top_k": 5}, "top_k"),
    ({"query": QUERY, "top_n": 0}, "top_n"),
    ({"query": QUERY, "filters": {"year": {}}}, "filters.year"),
    ({"query": QUERY, "filters": {"year": {"after": 1900}}}, "filters.year.after"),
    ({"query": QUERY, "filters": {"year": {"gt": True}}}, "filters.year.gt"),
    ({"query": QUERY, "filters": {"year": {"in": 3}}}, "filters.year.in"),
    ({"query": QUERY, "filters": {"year": {"in": None}}}, "filters.year"),
    ({"query": QUERY, "filters": {"year": [[1]]}}, "filters.year.0"),
    ({"query": QUERY, "filters": {"or": []}}, "filters.or"),
    ({"query": QUERY, "filters": {"and": {"year": 1}}}, "filters.and"),
    ({"query": QUERY, "filters": {"or": [{"year": 1}, {"not": {"year": {"lt": None}}}]}}, "filters.or.1.not.year.lt"),
]


@pytest.mark.parametrize(("body", "field"), WRONG, ids=lambda value: str(value)[:60])
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, fakes: FakeServices, body: dict[str, Any], field: str
) -> None:
    response = await client.post("/search", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (422, field), response.text
    assert fakes.index.calls == []


@pytest.mark.parametrize("text", ['{"\\ud800": 1}', '{"a": "\\ud800"}', '{"a": {"gt": "\\ud800"}}', '{"a": 1e999}'])
async def test_what_is_no_text_or_number_is_refused(client: httpx.AsyncClient, text: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/search", content=f'{{"query": "q", "filters": {text}}}', headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("depth", [9, 300, 100_000])
async def test_filters_nested_too_deep_are_refused(client: httpx.AsyncClient, depth: int) -> None:
    nested = '{"not":' * (depth - 1) + '{"a":1}' + "}" * (depth - 1)
    headers = {"Content-Type": "application/json"}
    response = await client.post("/search", content=f'{{"query": "q", "filters": {nested}}}', headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
