"""Both clients against the real app."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from rankrag import (
    Answer,
    AsyncClient,
    BusyError,
    Client,
    DeadlineError,
    Delta,
    Event,
    Final,
    Found,
    InvalidRequestError,
    Message,
    Ranking,
    RankRAGError,
    Reranked,
    SearchResults,
    UnreachableError,
)
from service import errors as service_errors
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices
from tests.rankrag.serving import serving

QUESTION = "mont blanc rises"
TEXTS = ["The Rhine is a river.", "Mont Blanc rises.", "The Eiger rises."]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def fakes() -> FakeServices:
    return FakeServices()


@pytest.fixture
def client(fakes: FakeServices) -> Iterator[Client]:
    with serving(fakes) as url, Client(url) as client:
        yield client


@asynccontextmanager
async def in_process(fakes: FakeServices, **options: Any) -> AsyncIterator[AsyncClient]:
    app = create_app(Settings(), fakes.open)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(
            "http://service", transport=httpx.ASGITransport(app, raise_app_exceptions=False), **options
        ) as client,
    ):
        yield client


def check_answer(answer: Answer) -> None:
    assert answer.text == "4,806 metres"
    assert [passage.id for passage in answer.passages] == ["mont-blanc", "eiger"]
    assert [passage.rank for passage in answer.passages] == [1, 2]
    assert answer.passages[0].metadata == {"kind": "mountain"}
    [citation] = [citation for citation in answer.citations if citation.source_ids == ("mont-blanc",)]
    assert answer.text[citation.start : citation.end] == citation.text
    assert (answer.model, answer.index_version, answer.degraded) == ("models/fake", "index-1", ())
    assert answer.usage.pairs_scored == 3
    assert answer.timings_ms.keys() >= {"score", "generate", "total"}
    assert answer.raw["answer"] == answer.text


def check_ranking(ranking: Ranking) -> None:
    assert [(result.index, result.text) for result in ranking.results] == [(1, TEXTS[1]), (2, TEXTS[2])]
    assert ranking.results[0].relevance_score > ranking.results[1].relevance_score
    assert (ranking.model, ranking.degraded, ranking.usage.pairs_scored) == ("models/fake", (), 3)


def check_events(events: list[Event]) -> None:
    found, reranked, *deltas, final = events
    assert isinstance(found, Found) and [passage.id for passage in found.passages] == ["rhine", "mont-blanc", "eiger"]
    assert isinstance(reranked, Reranked) and reranked.passages[0].id == "mont-blanc"
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)).strip() == "4,806 metres"
    assert isinstance(final, Final)
    check_answer(final.answer)


def test_answer(client: Client) -> None:
    check_answer(client.answer(QUESTION, top_n=3, top_k=2))


async def test_answer_in_an_event_loop(fakes: FakeServices) -> None:
    async with in_process(fakes) as client:
        check_answer(await client.answer(QUESTION, top_n=3, top_k=2))


def test_answer_from_given_passages(client: Client, fakes: FakeServices) -> None:
    answer = client.answer(QUESTION, passages=[{"id": "a", "text": "Mont Blanc rises to 4,806 metres."}])
    assert [passage.id for passage in answer.passages] == ["a"]
    assert answer.passages[0].retrieval_score is None
    assert fakes.index.calls == []


def test_answer_to_the_last_of_a_conversation(client: Client) -> None:
    conversation: list[Message] = [
        {"role": "user", "content": "What rises there?"},
        {"role": "assistant", "content": "Mont Blanc"},
        {"role": "user", "content": QUESTION},
    ]
    answer = client.answer(conversation, top_n=3, top_k=2, context_order="reverse")
    check_answer(answer)
    assert answer.rewritten_question is None
    with closing(client.stream(conversation, rewrite=True)) as events:  # type: ignore[type-var]
        found = next(events)
    assert isinstance(found, Found) and found.rewritten_question == "How high is Mont Blanc?"


def check_found(found: SearchResults) -> None:
    assert [(one.id, one.retrieval_rank) for one in found.results] == [("rhine", 1), ("mont-blanc", 2)]
    assert found.results[1].text and found.results[1].metadata == {"kind": "mountain"}
    assert (found.index_version, found.raw["results"][0]["id"]) == ("index-1", "rhine")


def test_search(client: Client) -> None:
    check_found(client.search(QUESTION, top_n=2))
    with pytest.raises(InvalidRequestError, match="filters"):
        client.search(QUESTION, filters={"and": []})


async def test_search_in_an_event_loop(fakes: FakeServices) -> None:
    async with in_process(fakes) as client:
        check_found(await client.search(QUESTION, top_n=2))


def test_rerank(client: Client) -> None:
    check_ranking(client.rerank(QUESTION, TEXTS, top_n=2, return_documents=True))
    assert [result.text for result in client.rerank(QUESTION, TEXTS).results] == [None] * 3


async def test_rerank_in_an_event_loop(fakes: FakeServices) -> None:
    async with in_process(fakes) as client:
        check_ranking(await client.rerank(QUESTION, TEXTS, top_n=2, return_documents=True))


def test_documents_may_be_objects(client: Client) -> None:
    documents = [{"name": "Rhine"}, {"name": "Mont Blanc"}]
    assert [result.index for result in client.rerank(QUESTION, documents, rank_fields=["name"]).results] == [1, 0]


def test_stream(client: Client) -> None:
    check_events(list(client.stream(QUESTION, top_n=3, top_k=2)))


async def test_stream_in_an_event_loop(fakes: FakeServices) -> None:
    async with in_process(fakes) as client:
        check_events([event async for event in client.stream(QUESTION, top_n=3, top_k=2)])


def test_events_come_as_they_happen(client: Client, fakes: FakeServices) -> None:
    fakes.generator.delay_s = 2.0
    begun_s = time.monotonic()
    with closing(client.stream(QUESTION)) as events:  # type: ignore[type-var] # a generator, typed as an iterator
        assert isinstance(next(events), Found)
    assert time.monotonic() - begun_s < 1.5


async def test_events_come_as_they_happen_in_an_event_loop(fakes: FakeServices) -> None:
    fakes.generator.delay_s = 2.0
    begun_s = time.monotonic()
    with serving(fakes) as url:
        async with AsyncClient(url) as client, aclosing(client.stream(QUESTION)) as events:  # type: ignore[type-var]
            assert isinstance(await anext(events), Found)
            assert time.monotonic() - begun_s < 1.5


# What goes wrong


def test_wrong_field_is_named(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.rerank(QUESTION, ["a"] * 1001)
    error = caught.value
    assert (error.status, error.code, error.param, error.limit) == (413, "request_too_large", "documents", 1000)
    assert error.request_id and error.request_id in str(error)


@pytest.mark.parametrize("kind", list(service_errors.error_tree()))
async def test_every_error_of_the_service_has_a_kind_here(
    fakes: FakeServices, kind: type[service_errors.RankRAGError]
) -> None:
    fakes.scorer.error = kind("what happened", retry_after_s=60 if kind.retry_after_s else None)
    async with in_process(fakes) as client:
        with pytest.raises(RankRAGError) as caught:
            await client.rerank(QUESTION, TEXTS)
    error = caught.value
    assert (error.message, error.code, error.status) == ("what happened", kind.code, kind.status)
    assert (error.retry_after_s == 60) is (kind.retry_after_s is not None)
    assert type(error) is not RankRAGError


@pytest.mark.parametrize("kind", list(service_errors.error_tree()))
async def test_errors_in_a_stream_are_those_outside_of_it(
    fakes: FakeServices, kind: type[service_errors.RankRAGError]
) -> None:
    fakes.generator.error = kind("what happened")
    async with in_process(fakes, max_retries=0) as client:
        events = client.stream(QUESTION)
        assert isinstance(await anext(events), Found)
        with pytest.raises(RankRAGError) as in_stream:
            [event async for event in events]
        with pytest.raises(RankRAGError) as outside:
            await client.answer(QUESTION)
    assert type(in_stream.value) is type(outside.value)
    assert (in_stream.value.code, in_stream.value.message) == (kind.code, "what happened")


def test_stream_that_is_refused_has_no_first_event(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="top_n"):
        next(client.stream(QUESTION, top_n=0))


async def test_stream_that_is_refused_has_no_first_event_in_an_event_loop(fakes: FakeServices) -> None:
    async with in_process(fakes) as client:
        with pytest.raises(InvalidRequestError, match="top_n"):
            await anext(client.stream(QUESTION, top_n=0))


def test_time_that_is_over_is_a_deadline_error(client: Client, fakes: FakeServices) -> None:
    fakes.scorer.delay_s = 1.0
    with pytest.raises(DeadlineError):
        client.rerank(QUESTION, TEXTS, deadline_ms=20)


async def test_service_that_is_not_there_is_unreachable() -> None:
    with Client("http://127.0.0.1:9", max_retries=0) as client, pytest.raises(UnreachableError):
        client.rerank(QUESTION, TEXTS)
    async with AsyncClient("http://127.0.0.1:9", max_retries=0) as client_in_loop:
        with pytest.raises(UnreachableError):
            await client_in_loop.rerank(QUESTION, TEXTS)
        with pytest.raises(UnreachableError):
            await anext(client_in_loop.stream(QUESTION))


async def test_busy_service_is_asked_again_when_it_says(fakes: FakeServices) -> None:
    fakes.scorer.error = service_errors.OverloadedError("full", retry_after_s=1)

    def free_again() -> None:
        if len(fakes.scorer.calls) == 2:
            fakes.scorer.error = None

    fakes.scorer.meanwhile = free_again
    async with in_process(fakes) as client:
        begun_s = time.monotonic()
        check_ranking(await client.rerank(QUESTION, TEXTS, top_n=2, return_documents=True))
    assert time.monotonic() - begun_s >= 1
    assert len(fakes.scorer.calls) == 2


async def test_service_that_stays_busy_is_left_alone(fakes: FakeServices) -> None:
    fakes.scorer.error = service_errors.OverloadedError("full", retry_after_s=30)
    async with in_process(fakes) as client:
        with pytest.raises(BusyError) as caught:
            await client.rerank(QUESTION, TEXTS)
    assert (caught.value.retry_after_s, len(fakes.scorer.calls)) == (30, 1)


def test_key_goes_along() -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(401, json={"message": "no", "error": {"code": "unauthenticated"}, "request_id": "r"})

    with Client(api_key="rrk_x", transport=httpx.MockTransport(respond)) as client, pytest.raises(RankRAGError):
        client.answer(QUESTION)
    assert seen[0].headers["Authorization"] == "Bearer rrk_x"


def test_package_needs_httpx_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import httpx; httpxs = set(sys.modules); import rankrag;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - httpxs};"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "['rankrag']"
