"""/rerank, /v1/rerank and /v2/rerank as the clients of Cohere, Jina, TEI and vLLM know them."""

import math
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.errors import EngineError, OverloadedError, RankRAGError, error_tree
from service.settings import LimitSettings, Settings
from tests.fakes import FakeServices, client_of

QUERY = "mont blanc rises"
TEXTS = ["The Rhine is a river.", "Mont Blanc rises.", "The Eiger rises."]
BEST_FIRST = [1, 2, 0]
PATHS = ["/rerank", "/v1/rerank", "/v2/rerank", "/infinity/rerank"]
NULLS = dict.fromkeys(
    [
        "top_n", "return_documents", "rank_fields", "max_tokens_per_doc", "max_chunks_per_doc", "long_documents",
        "model", "cache", "deadline_ms", "priority", "allow_partial", "texts", "user", "truncation", "overlap_tokens",
    ]
)  # fmt: skip


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    documents = {} if "texts" in body else {"documents": TEXTS}
    return await client.post(path, json={"query": QUERY, **documents, **body})


async def results(client: httpx.AsyncClient, path: str, **body: Any) -> list[dict[str, Any]]:
    response = await post(client, path, **body)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def indices(found: list[dict[str, Any]]) -> list[int]:
    return [result["index"] for result in found]


@pytest.mark.parametrize("path", PATHS)
async def test_every_path_ranks(client: httpx.AsyncClient, path: str) -> None:
    assert indices(await results(client, path)) == BEST_FIRST
    assert indices(await results(client, path, top_n=2)) == BEST_FIRST[:2]


@pytest.mark.parametrize("path", PATHS)
async def test_null_is_as_good_as_absent(client: httpx.AsyncClient, path: str) -> None:
    assert await results(client, path, **{**NULLS, "documents": TEXTS}) == await results(client, path)


@pytest.mark.parametrize("path", PATHS)
async def test_unknown_fields_are_ignored(client: httpx.AsyncClient, path: str) -> None:
    extras = {"instruction": "x", "truncate_prompt_tokens": 5, "relevant_spans": {"mode": "enabled"}, "model-id": 1}
    assert indices(await results(client, path, **extras)) == BEST_FIRST


@pytest.mark.parametrize(
    ("path", "gives"), [("/rerank", False), ("/v1/rerank", True), ("/v2/rerank", False), ("/infinity/rerank", False)]
)
async def test_documents_come_back_as_objects_where_the_dialect_has_it(
    client: httpx.AsyncClient, path: str, gives: bool
) -> None:
    expected = [{"text": TEXTS[index]} for index in BEST_FIRST] if gives else [None] * 3
    assert [result.get("document") for result in await results(client, path)] == expected


@pytest.mark.parametrize(("path", "version"), [("/rerank", "1"), ("/v1/rerank", "1"), ("/v2/rerank", "2")])
async def test_body_holds_what_each_client_reads(client: httpx.AsyncClient, path: str, version: str) -> None:
    body = (await post(client, path)).json()
    assert body["id"]
    assert (body["object"], body["model"]) == ("list", "models/fake")
    assert body["meta"]["api_version"] == {"version": version}
    assert body["meta"]["tokens"] == {"input_tokens": 3, "output_tokens": 0}
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] == 3


async def test_infinitys_clients_get_documents_as_plain_texts(client: httpx.AsyncClient) -> None:
    body = {"documents": [TEXTS[0], {"text": TEXTS[1]}], "return_documents": True}
    assert [result["document"] for result in await results(client, "/infinity/rerank", **body)] == [TEXTS[1], TEXTS[0]]


async def test_ranked_fields_are_what_is_scored_and_given_back(client: httpx.AsyncClient) -> None:
    documents = [{"name": "Rhine", "text": QUERY}, {"name": "Mont Blanc", "what": "rises", "text": ""}]
    body = {"documents": documents, "rank_fields": ["name", "what"], "return_documents": True}
    found = await results(client, "/v1/rerank", **body)
    assert [result["document"]["text"] for result in found] == ["name: Mont Blanc\nwhat: rises", "Rhine"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": None}, "documents"),
        ({"documents": [{"image": "x"}]}, "documents.0.text"),
        ({"documents": ["a", 5]}, "documents.1"),
        ({"query": None}, "query"),
        ({"query": {"content": []}}, "query"),
        ({"top_n": -1}, "top_n"),
        ({"max_tokens_per_doc": -1}, "max_tokens_per_doc"),
        ({"max_chunks_per_doc": 0}, "max_chunks_per_doc"),
        ({"long_documents": "middle"}, "long_documents"),
        ({"rank_fields": []}, "rank_fields"),
        ({"rank_fields": ["name"], "documents": [{"text": "x"}]}, "documents.0"),
    ],
)
async def test_wrong_field_is_named_for_every_client(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    response = await post(client, path, **body)
    error = response.json()
    assert (response.status_code, error["error"]["param"]) == (422, param)
    assert error["message"] == error["detail"] == error["error"]["message"]
    assert error["id"] == error["request_id"] == response.headers["X-Request-ID"]
    assert param in error["message"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_thousand_documents_are_one_request(client: httpx.AsyncClient, path: str) -> None:
    documents = [f"Number {number}." for number in range(999)] + ["Mont Blanc rises."]
    assert indices(await results(client, path, documents=documents, top_n=1)) == [999]
    refused = await post(client, path, documents=[*documents, "one more"])
    assert (refused.status_code, refused.json()["error"]["limit"]) == (413, 1000)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", list(error_tree()))
async def test_refusals_that_pass_say_when_to_try_again(
    client: httpx.AsyncClient, fakes: FakeServices, path: str, kind: type[RankRAGError]
) -> None:
    fakes.scorer.error = kind("what happened", retry_after_s=0 if kind.status in (429, 503) else None)
    response = await post(client, path)
    if kind.status in (429, 503):
        assert int(response.headers["Retry-After"]) >= 1
    assert "retry-after-ms" not in response.headers


# Long documents


LONG = "The Rhine is a river that rises far away. Mont Blanc rises."


async def test_only_the_beginning_of_a_long_document_counts(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    found = await results(client, "/v2/rerank", documents=[LONG, "Blanc"], max_tokens_per_doc=4, return_documents=True)
    assert [passage.text for passage in fakes.scorer.calls[0][1]] == ["The Rhine is a", "Blanc"]
    assert indices(found) == [1, 0]
    assert found[1]["document"] == {"text": LONG}
    assert fakes.cutter.questions == [QUERY]


async def test_a_long_document_is_as_relevant_as_its_best_chunk(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    body = {"documents": ["Blanc", LONG], "max_tokens_per_doc": 4, "long_documents": "max_chunk"}
    response = await post(client, "/rerank", **body, top_n=1, return_documents=True)
    texts = [passage.text for passage in fakes.scorer.calls[0][1]]
    assert texts == ["Blanc", "The Rhine is a", "river that rises far", "away. Mont Blanc rises."]
    [best] = response.json()["results"]
    assert (best["index"], best["relevance_score"], best["document"]) == (1, 1.0, {"text": LONG})
    assert response.json()["usage"]["pairs_scored"] == 4
    assert fakes.scorer.top_ks == [None]


async def test_first_chunks_count_where_only_so_many_may(client: httpx.AsyncClient) -> None:
    body = {"documents": ["Blanc", LONG], "max_tokens_per_doc": 2, "long_documents": "max_chunk"}
    assert indices(await results(client, "/v1/rerank", **body, max_chunks_per_doc=2)) == [0, 1]


async def test_whole_documents_may_be_settled_early_though_long_ones_would_be_chunked(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    await results(client, "/rerank", long_documents="max_chunk", top_n=1)
    assert fakes.scorer.top_ks == [1]


async def test_document_with_a_scored_chunk_is_part_of_a_ranking_that_ran_out_of_time(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.scorer.num_in_time = 2
    body = {"documents": [LONG, "Blanc"], "max_tokens_per_doc": 4, "long_documents": "max_chunk"}
    response = await post(client, "/rerank", **body, allow_partial=True)
    assert (indices(response.json()["results"]), response.json()["degraded"]) == ([0], ["rerank_partial"])
    assert response.json()["meta"]["pairs_unscored"] == 2


async def test_number_of_chunks_is_bounded() -> None:
    settings = Settings(limits=LimitSettings(max_chunks=3))
    async with client_of(create_app(settings, FakeServices().open)) as client:
        body = {"max_tokens_per_doc": 2, "long_documents": "max_chunk"}
        assert (await post(client, "/rerank", documents=["a b c d e f"], **body)).status_code == 200
        assert (await post(client, "/rerank", documents=["a b c d e f g"], **body)).status_code == 413


# TEI


async def test_texts_are_answered_with_a_bare_list(client: httpx.AsyncClient) -> None:
    response = await post(client, "/rerank", texts=TEXTS)
    assert [set(rank) for rank in response.json()] == [{"index", "score"}] * 3
    assert indices(response.json()) == BEST_FIRST
    assert indices((await post(client, "/rerank", texts=TEXTS, top_n=1)).json()) == BEST_FIRST[:1]
    with_text = await post(client, "/rerank", texts=TEXTS, return_text=True)
    assert [rank["text"] for rank in with_text.json()] == [TEXTS[index] for index in BEST_FIRST]


async def test_times_and_sizes_are_in_headers(client: httpx.AsyncClient) -> None:
    headers = (await post(client, "/rerank", texts=TEXTS)).headers
    for name in ("x-compute-time", "x-total-time", "x-inference-time"):
        assert int(headers[name]) >= 0
    assert headers["x-compute-characters"] == str(sum(map(len, TEXTS)))
    assert headers["x-compute-tokens"] == "3"
    assert "x-compute-time" not in (await post(client, "/rerank")).headers


async def test_raw_scores_are_log_odds_and_finite(client: httpx.AsyncClient) -> None:
    texts = [*TEXTS, "None of it."]
    scores = [rank["score"] for rank in (await post(client, "/rerank", texts=texts, raw_scores=True)).json()]
    [best, second, *worst] = scores
    assert second == pytest.approx(math.log(1 / 2))
    assert best > 10 and all(score < -10 for score in worst)
    assert all(math.isfinite(score) for score in scores)


async def test_texts_may_lose_their_beginning_instead(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.cutter.room = 3
    body = {"texts": [LONG], "truncate": True, "truncation_direction": "Left"}
    assert (await post(client, "/rerank", **body)).status_code == 200
    assert fakes.scorer.calls[0][1][0].text == "Mont Blanc rises."


async def test_nulls_and_our_own_fields_do_for_texts_too(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    body = {"truncate": None, "raw_scores": None, "return_text": None, "truncation_direction": None, "documents": None}
    response = await post(client, "/rerank", texts=TEXTS, cache=False, deadline_ms=5000, priority="bulk", **body)
    assert indices(response.json()) == BEST_FIRST
    assert fakes.scorer.used_cache == [False]
    assert fakes.scorer.deadlines_s == [fakes.clock() + 5]


@pytest.mark.parametrize(
    ("kind", "error_type"),
    [(OverloadedError, "Overloaded"), (EngineError, "Unhealthy"), (RankRAGError, "Backend")],
)
async def test_errors_about_texts_have_teis_shape(
    client: httpx.AsyncClient, fakes: FakeServices, kind: type[RankRAGError], error_type: str
) -> None:
    fakes.scorer.error = kind("what happened")
    response = await post(client, "/rerank", texts=TEXTS)
    body = response.json()
    assert response.status_code == kind.status
    assert (body["error"], body["error_type"], body["detail"]) == ("what happened", error_type, "what happened")
    assert body["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"texts": []}, "texts: List should have at least 1 item"),
        ({"texts": ["a", {"text": "b"}]}, "texts.1: "),
        ({"texts": ["a"], "query": ""}, "query: "),
        ({"texts": ["a"], "query": " "}, "query: "),
        ({"texts": ["a"], "truncation_direction": "up"}, "truncation_direction: "),
        ({"texts": ["a", "b" * 100_001]}, "texts.1: "),
    ],
)
async def test_wrong_requests_with_texts_are_validation_errors(
    client: httpx.AsyncClient, body: dict[str, Any], said: str
) -> None:
    response = await post(client, "/rerank", **body)
    assert (response.status_code, response.json()["error_type"]) == (422, "Validation")
    assert response.json()["error"].startswith(said)


@pytest.mark.parametrize("path", PATHS[1:])
async def test_texts_are_teis_on_its_own_path_alone(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={"query": QUERY, "texts": TEXTS})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "documents")
