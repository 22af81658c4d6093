"""POST /answer."""

import time
from typing import Any

import httpx
import pytest

from service.api.asking import is_no_store
from service.app import create_app
from service.errors import DeadlineError, EngineError
from service.settings import Settings
from service.types import NO_FILTER, AnyOf, Bound, Every, Not, Passage, Some
from tests.fakes import PASSAGES, FakeServices, client_of

QUESTION = "mont blanc rises"


async def ask(client: httpx.AsyncClient, *, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    response = await client.post("/answer", json={"question": QUESTION, **body}, headers=headers)
    assert response.status_code == 200, response.text
    answered: dict[str, Any] = response.json()
    return answered


async def test_answer_comes_with_its_citation(client: httpx.AsyncClient) -> None:
    body = await ask(client)
    assert body["answer"] == "4,806 metres"
    citation = {"start": 0, "end": 12, "text": "4,806 metres", "sources": [{"id": "mont-blanc"}]}
    assert body["citations"] == [citation]
    assert (body["abstained"], body["degraded"], body["cached"]) == (False, [], False)


async def test_passages_under_the_least_relevance_are_shown_but_not_answered_from(client: httpx.AsyncClient) -> None:
    passages = (await ask(client, min_relevance=0.9))["passages"]
    assert [(p["id"], p["in_context"]) for p in passages] == [("mont-blanc", True), ("eiger", False), ("rhine", False)]


@pytest.mark.parametrize("value", [-0.1, 1.1])
async def test_least_relevance_is_a_share(client: httpx.AsyncClient, value: float) -> None:
    response = await client.post("/answer", json={"question": QUESTION, "min_relevance": value})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "min_relevance")


async def test_passages_come_best_first_with_where_they_were(client: httpx.AsyncClient) -> None:
    passages = (await ask(client))["passages"]
    assert [(p["id"], p["rank"], p["retrieval_rank"]) for p in passages] == [
        ("mont-blanc", 1, 2), ("eiger", 2, 3), ("rhine", 3, 1),
    ]  # fmt: skip
    assert passages[0] == {
        "id": "mont-blanc",
        "title": "Mont Blanc",
        "text": "Mont Blanc rises to 4,806 metres.",
        "retrieval_score": 0.5,
        "retrieval_rank": 2,
        "relevance_score": 1.0,
        "in_context": True,
        "label_mass": 0.99,
        "rank": 1,
        "metadata": {"kind": "mountain"},
    }


async def test_answer_says_what_made_it_and_what_it_cost(client: httpx.AsyncClient) -> None:
    body = await ask(client)
    assert (body["model"], body["index_version"]) == ("models/fake", "index-1")
    assert body["usage"] == {
        "prompt_tokens": 43, "completion_tokens": 2, "total_tokens": 45, "pairs_scored": 3, "pairs_cached": 0,
    }  # fmt: skip


async def test_stages_are_timed_in_body_and_header(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.encoder.meanwhile = lambda: fakes.clock.advance(0.25)
    response = await client.post("/answer", json={"question": QUESTION})
    timings = response.json()["timings_ms"]
    assert set(timings) == {"encode", "search", "score", "generate", "ttft", "total"}
    assert (timings["encode"], timings["total"]) == (250.0, 250.0)
    assert "encode;dur=250.0" in response.headers["Server-Timing"]


async def test_request_decides_how_much_is_retrieved_kept_and_generated(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    body = await ask(client, top_n=2, top_k=1, max_tokens=7)
    assert [passage["id"] for passage in body["passages"]] == ["mont-blanc"]
    assert fakes.index.calls == [(2, NO_FILTER)]
    assert fakes.generator.calls[0][2] == 7


@pytest.mark.parametrize("body", [{}, {"top_n": None, "top_k": None, "max_tokens": None, "filters": None}])
async def test_settings_decide_where_the_request_does_not(
    client: httpx.AsyncClient, fakes: FakeServices, settings: Settings, body: dict[str, Any]
) -> None:
    await ask(client, **body)
    assert fakes.index.calls == [(settings.top_n, NO_FILTER)]
    assert fakes.generator.calls[0][2] == settings.max_tokens
    assert fakes.generator.calls[0][3] == fakes.clock() + settings.request_timeout_s


async def test_filters_reach_the_index_with_their_types(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    filters = {"kind": ["mountain", "river"], "height": 4806, "ratio": 1.5, "is_alpine": True, "nothing": None}
    await ask(client, filters=filters)
    found = fakes.index.calls[0][1]
    assert isinstance(found, Every)
    values = {part.field: part.values for part in found.parts if isinstance(part, AnyOf)}
    wanted = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in filters.items()}
    assert values == wanted
    assert {name: type(value[0]) for name, value in values.items()} == {
        "kind": str, "height": int, "ratio": float, "is_alpine": bool, "nothing": type(None),
    }  # fmt: skip


async def test_filters_reach_the_index_with_their_structure(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    either = [{"kind": {"in": ["mountain"]}}, {"height": {"gte": 4000, "lt": 5000.5}}]
    await ask(client, filters={"or": either, "not": {"kind": "river"}})
    assert fakes.index.calls[0][1] == Every(
        (
            Some(
                (
                    Every((AnyOf("kind", ("mountain",)),)),
                    Every((Bound("height", "gte", 4000), Bound("height", "lt", 5000.5))),
                )
            ),
            Not(Every((AnyOf("kind", ("river",)),))),
        )
    )


@pytest.mark.parametrize(
    ("order", "ids"),
    [
        ("rank", ["mont-blanc", "eiger", "rhine"]),
        ("reverse", ["rhine", "eiger", "mont-blanc"]),
        ("edges", ["mont-blanc", "rhine", "eiger"]),
    ],
)
async def test_context_stands_in_the_order_that_was_asked_for(
    client: httpx.AsyncClient, fakes: FakeServices, order: str, ids: list[str]
) -> None:
    body = await ask(client, context_order=order, min_relevance=0)
    assert [passage.id for passage in fakes.generator.calls[0][1]] == ids
    assert [passage["id"] for passage in body["passages"]] == ["mont-blanc", "eiger", "rhine"]


async def test_question_is_asked_without_white_space_around_it(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    await ask(client, question=f"\n {QUESTION} ")
    assert fakes.encoder.calls == [(QUESTION, True)]


async def test_same_question_is_answered_from_the_cache(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    first, second = await ask(client), await ask(client)
    assert (second["cached"], second["answer"], second["passages"]) == (True, first["answer"], first["passages"])
    assert second["usage"]["total_tokens"] == 0
    assert set(second["timings_ms"]) == {"total"}
    assert len(fakes.generator.calls) == 1


@pytest.mark.parametrize(("body", "headers"), [({"cache": False}, {}), ({}, {"Cache-Control": "max-age=0, No-Store"})])
async def test_caller_can_do_without_any_cache(
    client: httpx.AsyncClient, fakes: FakeServices, body: dict[str, Any], headers: dict[str, str]
) -> None:
    for _ in range(2):
        assert not (await ask(client, headers=headers, **body))["cached"]
    assert (fakes.answers.num_gets, fakes.answers.num_puts) == (0, 0)
    assert fakes.scorer.used_cache == [False, False]
    assert fakes.encoder.calls == [(QUESTION, False)] * 2


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        ("no-cache", False),
        ("no-store", True),
        ("private,NO-STORE", True),
        ("x-no-store", False),
    ],
)
def test_no_store_is_a_directive_of_its_own(header: str | None, expected: bool) -> None:
    assert is_no_store(header) is expected


@pytest.mark.parametrize("error", [EngineError("vLLM is gone"), DeadlineError("too slow")])
async def test_failed_reranking_is_declared_and_keeps_the_retrievers_order(
    client: httpx.AsyncClient, fakes: FakeServices, error: Exception
) -> None:
    fakes.scorer.error = error
    body = await ask(client)
    assert body["degraded"] == ["rerank_skipped"]
    assert [passage["id"] for passage in body["passages"]] == [passage.id for passage in PASSAGES]
    assert [passage["relevance_score"] for passage in body["passages"]] == [None] * 3


async def test_ranking_that_ran_out_of_time_is_declared_counted_and_not_remembered(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.scorer.num_in_time = 2
    body = await ask(client)
    assert body["degraded"] == ["rerank_partial"]
    assert [(p["id"], p["relevance_score"] is None) for p in body["passages"]] == [
        ("mont-blanc", False), ("eiger", True), ("rhine", False),
    ]  # fmt: skip
    assert 'rankrag_degraded_total{kind="rerank_partial"} 1.0' in (await client.get("/metrics")).text
    assert not (await ask(client))["cached"]


async def test_nothing_found_is_an_abstention(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.index.stored = ()
    body = await ask(client)
    assert body["abstained"] is True
    assert body["answer"] == "Sorry. I cannot find the answer based on the context."
    assert (body["citations"], body["passages"]) == ([], [])


async def test_any_text_comes_through_unharmed(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    text = 'quotes " and \\ and \u2028 and 漢字 and <script> and \x00'
    fakes.index.stored = (Passage("p", text, "", {"note": text}),)
    fakes.generator.texts = (text,)
    body = await ask(client)
    assert (body["answer"], body["passages"][0]["text"], body["passages"][0]["metadata"]) == (
        text,
        text,
        {"note": text},
    )


async def test_without_an_index_there_are_no_answers(fakes: FakeServices) -> None:
    fakes.has_index = False
    async with client_of(create_app(Settings(), fakes.open)) as client:
        response = await client.post("/answer", json={"question": QUESTION})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "index_unavailable")
    assert "RANKRAG_INDEX__PATH" in response.json()["message"]


async def test_request_that_hangs_is_ended_at_its_deadline(fakes: FakeServices) -> None:
    fakes.encoder.delay_s = 60
    begun_s = time.monotonic()
    async with client_of(create_app(Settings(request_timeout_s=0.05), fakes.open)) as client:
        response = await client.post("/answer", json={"question": QUESTION})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "0.05 s" in response.json()["message"]
    assert time.monotonic() - begun_s < 5
