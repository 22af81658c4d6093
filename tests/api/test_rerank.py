"""POST /rerank."""

import time
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices, client_of

QUERY = "mont blanc rises"
DOCUMENTS = ["The Rhine is a river.", "Mont Blanc rises.", "The Eiger rises."]


async def rerank(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS, **body})
    assert response.status_code == 200, response.text
    reranked: dict[str, Any] = response.json()
    return reranked


def order(body: dict[str, Any]) -> list[int]:
    return [result["index"] for result in body["results"]]


async def test_results_come_best_first_by_their_place_in_the_request(client: httpx.AsyncClient) -> None:
    results = (await rerank(client))["results"]
    assert [result["index"] for result in results] == [1, 2, 0]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


async def test_equal_scores_keep_the_order_of_the_request(client: httpx.AsyncClient) -> None:
    assert order(await rerank(client, documents=["The same."] * 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (3, 3), (100, 3), (0, 3), (None, 3)])
async def test_top_n_cuts_and_0_or_null_means_all(client: httpx.AsyncClient, top_n: int | None, count: int) -> None:
    assert order(await rerank(client, top_n=top_n)) == [1, 2, 0][:count]


async def test_documents_may_be_objects_with_text_title_and_more(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    documents = [DOCUMENTS[0], {"text": "It rises.", "title": "Mont Blanc", "id": 7}, {"text": "x", "title": None}]
    assert order(await rerank(client, documents=documents)) == [1, 0, 2]
    passages = fakes.scorer.calls[0][1]
    assert [(passage.title, passage.text) for passage in passages[1:]] == [("Mont Blanc", "It rises."), ("", "x")]


@pytest.mark.parametrize("return_documents", [None, False])
async def test_texts_are_not_given_back_unless_wanted(client: httpx.AsyncClient, return_documents: bool | None) -> None:
    body = await rerank(client, return_documents=return_documents)
    assert all(set(result) == {"index", "relevance_score"} for result in body["results"])


async def test_texts_are_given_back_as_objects(client: httpx.AsyncClient) -> None:
    documents = [DOCUMENTS[0], {"text": DOCUMENTS[1], "title": "T"}]
    results = (await rerank(client, documents=documents, return_documents=True))["results"]
    assert [result["document"] for result in results] == [{"text": DOCUMENTS[1]}, {"text": DOCUMENTS[0]}]


async def test_what_other_rerankers_clients_send_is_accepted(client: httpx.AsyncClient) -> None:
    extras = {"model": "rerank-v3.5", "max_tokens_per_doc": 4096, "priority": 0, "truncation": True, "user": None}
    assert order(await rerank(client, **extras)) == [1, 2, 0]


async def test_response_says_what_made_it_and_what_it_cost(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/rerank", json={"query": QUERY, "documents": DOCUMENTS}, headers={"X-Request-ID": "my-id"}
    )
    body = response.json()
    assert (body["id"], body["object"], body["model"]) == ("my-id", "list", "models/fake")
    assert body["usage"]["pairs_scored"] == 3
    assert body["meta"]["prompt"] == "rankrag-v1"
    assert set(body["meta"]["timings_ms"]) == {"score", "total"}
    assert "score;dur=" in response.headers["Server-Timing"]


async def test_no_index_is_needed() -> None:
    fakes = FakeServices(has_index=False)
    async with client_of(create_app(Settings(), fakes.open)) as client:
        assert order(await rerank(client)) == [1, 2, 0]


async def test_scoring_has_the_whole_time_of_the_request(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    await rerank(client)
    assert fakes.scorer.deadlines_s == [fakes.clock() + Settings().request_timeout_s]


@pytest.mark.parametrize(("body", "headers"), [({"cache": False}, {}), ({}, {"Cache-Control": "no-store"})])
async def test_caller_can_do_without_the_cache(
    client: httpx.AsyncClient, fakes: FakeServices, body: dict[str, Any], headers: dict[str, str]
) -> None:
    await client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS, **body}, headers=headers)
    assert fakes.scorer.used_cache == [False]


async def test_scores_and_tokens_are_counted(client: httpx.AsyncClient) -> None:
    await rerank(client)
    metrics = (await client.get("/metrics")).text
    assert 'rankrag_pairs_total{source="engine"} 3.0' in metrics
    assert "rankrag_label_mass_count 3.0" in metrics


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": QUERY}, "documents"),
        ({"query": QUERY, "documents": []}, "documents"),
        ({"query": QUERY, "documents": "one"}, "documents"),
        ({"query": QUERY, "documents": [{"image": "x"}]}, "documents.0.text"),
        ({"query": QUERY, "documents": ["a", None]}, "documents.1"),
        ({"query": QUERY, "documents": ["a", {"text": 5}]}, "documents.1.text"),
        ({"query": QUERY, "documents": ["a"], "top_n": -1}, "top_n"),
        ({"query": QUERY, "documents": ["a"], "top_n": 1.5}, "top_n"),
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": " ", "documents": ["a"]}, "query"),
        ({"query": ["a"], "documents": ["a"]}, "query"),
    ],
)
async def test_wrong_field_is_named(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post("/rerank", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)


# Part of the documents scored


async def test_first_best_are_asked_for_where_not_all_are_wanted(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    for top_n in (None, 0, 1, 2, 3, 4):
        await rerank(client, top_n=top_n)
    assert fakes.scorer.top_ks == [None, None, 1, 2, None, None]


async def test_scoring_that_settled_early_gives_the_best_and_says_what_it_left(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.scorer.num_settling = 2
    body = await rerank(client, top_n=1)
    assert (order(body), body["degraded"]) == ([1], [])
    assert (body["usage"]["pairs_scored"], body["meta"]["pairs_unscored"]) == (2, 1)
    assert order(await rerank(client, top_n=2)) == [1, 0]


async def test_whole_ranking_leaves_nothing_unscored(client: httpx.AsyncClient) -> None:
    body = await rerank(client)
    assert (body["degraded"], body["meta"]["pairs_unscored"]) == ([], 0)


@pytest.mark.parametrize(("top_n", "expected"), [(None, [1, 0]), (0, [1, 0]), (1, [1]), (2, [1, 0])])
async def test_part_that_was_scored_in_time_comes_best_first_where_it_will_do(
    client: httpx.AsyncClient, fakes: FakeServices, top_n: int | None, expected: list[int]
) -> None:
    fakes.scorer.num_in_time = 2
    body = await rerank(client, allow_partial=True, top_n=top_n, return_documents=True)
    assert (order(body), body["degraded"]) == (expected, ["rerank_partial"])
    assert [result["document"]["text"] for result in body["results"]] == [DOCUMENTS[index] for index in expected]
    assert (body["usage"]["pairs_scored"], body["meta"]["pairs_unscored"]) == (2, 1)


async def test_part_that_was_scored_is_counted_as_degraded(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.num_in_time = 2
    await rerank(client, allow_partial=True)
    metrics = (await client.get("/metrics")).text
    assert 'rankrag_degraded_total{kind="rerank_partial"} 1.0' in metrics
    assert "rankrag_label_mass_count 2.0" in metrics


@pytest.mark.parametrize(("allow_partial", "num_in_time"), [(False, 2), (None, 2), (True, 0)])
async def test_part_that_will_not_do_is_a_504(
    client: httpx.AsyncClient, fakes: FakeServices, allow_partial: bool | None, num_in_time: int
) -> None:
    fakes.scorer.num_in_time = num_in_time
    allowed = {} if allow_partial is None else {"allow_partial": allow_partial}
    response = await client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS, **allowed})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_part_that_comes_right_after_the_deadline_is_not_cut_off(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.scorer.delay_s, fakes.scorer.num_in_time = 0.04, 2
    assert order(await rerank(client, allow_partial=True, deadline_ms=20)) == [1, 0]


async def test_scorer_that_hangs_is_cut_off_soon_after_the_deadline(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.scorer.delay_s = 60
    body = {"query": QUERY, "documents": DOCUMENTS, "allow_partial": True, "deadline_ms": 20}
    begun_s = time.monotonic()
    response = await client.post("/rerank", json=body)
    assert (response.status_code, response.json()["message"]) == (504, "not done within 0.02 s")
    assert time.monotonic() - begun_s < 5
