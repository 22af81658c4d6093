"""One question's way through the stages, and what becomes of it where a stage fails."""

import asyncio
from dataclasses import replace

import pytest

from service.errors import (
    DeadlineError,
    EngineError,
    EngineOverloadedError,
    EngineRefusedError,
    OverloadedError,
    RankRAGError,
    RequestError,
    RetrievalError,
)
from service.pipeline import SCORE_SHARE, Delta, Event, Reranked, Retrieved
from service.types import NO_FILTER, Answer, Citation, Passage, Priority, Query, Timings, Usage
from tests.fakes import EIGER, MONT_BLANC, PASSAGES, RHINE, FakeServices
from tests.filtering import where

QUERY = Query("mont blanc rises", top_n=3, top_k=2, max_tokens=8, deadline_s=110.0)
ABSTENTION = "Sorry. I cannot find the answer based on the context."


async def events_of(fakes: FakeServices, query: Query = QUERY) -> list[Event]:
    return [event async for event in await fakes.pipeline().begin(query)]


async def answer_of(fakes: FakeServices, query: Query = QUERY) -> Answer:
    return await fakes.pipeline().answer(query)


def ids(answer: Answer) -> list[str]:
    return [kept.passage.id for kept in answer.passages]


async def test_events_come_in_the_order_of_the_stages() -> None:
    events = await events_of(FakeServices())
    assert [type(event) for event in events] == [Retrieved, Reranked, Delta, Delta, Citation, Answer]


async def test_answer_is_the_last_event() -> None:
    assert (await events_of(FakeServices()))[-1] == await answer_of(FakeServices())


async def test_best_passages_are_kept_and_answered_from_in_their_order() -> None:
    fakes = FakeServices()
    answer = await answer_of(fakes)
    assert ids(answer) == ["mont-blanc", "eiger"]
    assert fakes.generator.calls == [(QUERY.question, (MONT_BLANC, EIGER), 8, 110.0)]


async def test_answer_is_made_from_and_cites_what_is_relevant_enough() -> None:
    fakes = FakeServices()
    answer = await answer_of(fakes, replace(QUERY, min_relevance=0.9))
    assert ids(answer) == ["mont-blanc", "eiger"]
    assert [passages for _, passages, _, _ in fakes.generator.calls] == [(MONT_BLANC,)]
    assert {id_ for citation in answer.citations for id_ in citation.passage_ids} == {"mont-blanc"}


async def test_every_retrieved_passage_is_scored_once() -> None:
    fakes = FakeServices()
    await answer_of(fakes)
    assert fakes.scorer.calls == [(QUERY.question, PASSAGES)]


async def test_answer_has_no_white_space_around_it_and_cites_what_holds_it() -> None:
    answer = await answer_of(FakeServices())
    assert answer.text == "4,806 metres"
    assert answer.citations == (Citation(0, 12, "4,806 metres", ("mont-blanc",)),)
    assert not answer.abstained


async def test_usage_is_that_of_scoring_and_answering_together() -> None:
    answer = await answer_of(FakeServices())
    assert answer.usage == Usage(prompt_tokens=43, completion_tokens=2, pairs_scored=3)


ENGINE_FAILURES = [
    EngineError("gone"), EngineOverloadedError("busy"), EngineRefusedError("no"), DeadlineError("late"),
]  # fmt: skip


@pytest.mark.parametrize("error", [*ENGINE_FAILURES, OverloadedError("full")], ids=lambda error: type(error).__name__)
async def test_failed_scoring_keeps_the_retrievers_order_and_says_so(error: RankRAGError) -> None:
    fakes = FakeServices()
    fakes.scorer.error = error
    fakes.scorer.meanwhile = lambda: fakes.clock.advance(3)
    answer = await answer_of(fakes)
    assert ids(answer) == ["rhine", "mont-blanc"]
    assert answer.timings.score_s == 3
    assert [kept.score for kept in answer.passages] == [None, None]
    assert answer.degraded == ("rerank_skipped",)
    assert answer.text == "4,806 metres"


async def test_ranking_that_ran_out_of_time_uses_the_scores_there_are_and_says_so() -> None:
    fakes = FakeServices()
    fakes.scorer.num_in_time = 2  # rhine has no relevance at all, mont-blanc has all, eiger none known
    answer = await answer_of(fakes, replace(QUERY, min_relevance=0.9))
    assert ids(answer) == ["mont-blanc", "eiger"]
    assert [kept.score is None for kept in answer.passages] == [False, True]
    assert answer.degraded == ("rerank_partial",)
    assert answer.usage.pairs_scored == 2
    assert [passages for _, passages, _, _ in fakes.generator.calls] == [(MONT_BLANC, EIGER)]
    assert fakes.answers.num_puts == 0


async def test_ranking_with_no_score_in_time_keeps_the_retrievers_order() -> None:
    fakes = FakeServices()
    fakes.scorer.num_in_time = 0
    answer = await answer_of(fakes)
    assert (ids(answer), answer.degraded) == (["rhine", "mont-blanc"], ("rerank_skipped",))


async def test_ranking_that_settled_early_is_whole_and_remembered() -> None:
    fakes = FakeServices()
    fakes.scorer.num_settling = 2
    answer = await answer_of(fakes)
    assert fakes.scorer.top_ks == [QUERY.top_k]
    assert (ids(answer), answer.degraded, fakes.answers.num_puts) == (["mont-blanc", "rhine"], (), 1)


async def test_degraded_answer_is_not_remembered() -> None:
    fakes = FakeServices()
    fakes.scorer.error = EngineError("gone")
    await answer_of(fakes)
    assert fakes.answers.num_puts == 0
    fakes.scorer.error = None
    assert (await answer_of(fakes)).degraded == ()


@pytest.mark.parametrize("error", [RequestError("too long"), RetrievalError("broken"), RuntimeError("bug")])
async def test_scoring_that_fails_for_another_reason_is_no_degradation(error: Exception) -> None:
    fakes = FakeServices()
    fakes.scorer.error = error
    with pytest.raises(type(error)):
        await answer_of(fakes)
    assert fakes.generator.calls == []


@pytest.mark.parametrize("error", ENGINE_FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("num_before", [0, 1, 2])
async def test_failed_generation_is_the_callers_error(error: RankRAGError, num_before: int) -> None:
    fakes = FakeServices()
    fakes.generator.error, fakes.generator.num_before_error = error, num_before
    with pytest.raises(type(error)):
        await answer_of(fakes)
    assert fakes.answers.num_puts == 0


@pytest.mark.parametrize("stage", ["encoder", "index"])
async def test_failed_retrieval_is_the_callers_error(stage: str) -> None:
    fakes = FakeServices()
    getattr(fakes, stage).error = RetrievalError("broken")
    with pytest.raises(RetrievalError):
        await answer_of(fakes)
    assert fakes.generator.calls == []


async def test_cut_context_is_declared_and_not_remembered() -> None:
    fakes = FakeServices()
    fakes.generator.is_context_cut = True
    assert (await answer_of(fakes)).degraded == ("context_truncated",)
    assert fakes.answers.num_puts == 0


async def test_both_degradations_are_declared() -> None:
    fakes = FakeServices()
    fakes.scorer.error, fakes.generator.is_context_cut = EngineError("gone"), True
    assert (await answer_of(fakes)).degraded == ("rerank_skipped", "context_truncated")


async def test_nothing_found_is_an_abstention_without_a_generation() -> None:
    fakes = FakeServices()
    fakes.index.stored = ()
    answer = await answer_of(fakes)
    assert (answer.text, answer.abstained, answer.passages, answer.citations) == (ABSTENTION, True, (), ())
    assert fakes.generator.calls == []
    assert answer.timings.generate_s is None


@pytest.mark.parametrize("text", [ABSTENTION, ABSTENTION.lower(), "", " \n"])
async def test_model_that_does_not_know_abstains_without_citations(text: str) -> None:
    fakes = FakeServices()
    fakes.index.stored = (Passage("p", f"It says: {ABSTENTION}"),)
    fakes.generator.texts = (text,)
    answer = await answer_of(fakes)
    assert (answer.abstained, answer.citations) == (True, ())
    assert answer.text.casefold() == ABSTENTION.casefold()
    assert ids(answer) == ["p"]


async def test_known_answer_makes_no_call_and_costs_nothing() -> None:
    fakes = FakeServices()
    first = await answer_of(fakes)
    events = await events_of(fakes, replace(QUERY, deadline_s=999.0))
    assert len(events) == 1
    assert events[0] == replace(first, is_cached=True, usage=Usage(), timings=Timings(total_s=0.0))
    assert (len(fakes.encoder.calls), len(fakes.scorer.calls), len(fakes.generator.calls)) == (1, 1, 1)


async def test_a_queue_of_questions_to_encode_refuses_before_the_first_event() -> None:
    fakes = FakeServices()
    fakes.encoder.refusal = OverloadedError("full")
    with pytest.raises(OverloadedError):
        await fakes.pipeline().begin(QUERY)
    given = replace(QUERY, passages=PASSAGES)
    assert (await fakes.pipeline().answer(given)).passages
    with pytest.raises(OverloadedError):
        await fakes.pipeline().search("mont blanc", top_n=3, filters=NO_FILTER, use_cache=False, deadline_s=110.0)
    assert fakes.encoder.calls == []


@pytest.mark.parametrize("refusal", [OverloadedError("full"), EngineError("gone")])
async def test_what_is_not_admitted_is_not_begun(refusal: RankRAGError) -> None:
    fakes = FakeServices()
    fakes.scorer.refusal = refusal
    with pytest.raises(type(refusal)):
        await fakes.pipeline().begin(QUERY)
    assert (fakes.encoder.calls, fakes.index.calls, fakes.scorer.calls) == ([], [], [])


async def test_known_answer_needs_no_admission() -> None:
    fakes = FakeServices()
    first = await answer_of(fakes)
    fakes.scorer.refusal = OverloadedError("full")
    assert (await answer_of(fakes)).text == first.text
    with pytest.raises(OverloadedError):
        await answer_of(fakes, replace(QUERY, use_cache=False))


async def test_admission_is_for_all_pairs_in_the_time_and_turn_that_scoring_has() -> None:
    fakes = FakeServices()
    await answer_of(fakes, replace(QUERY, priority=Priority.BULK))
    (num_pairs, deadline_s, priority), *more = fakes.scorer.admitted
    assert (num_pairs, priority, more) == (QUERY.top_n, Priority.BULK, [])
    assert deadline_s == pytest.approx(100 + SCORE_SHARE * 10)
    assert fakes.scorer.priorities == [Priority.BULK]


async def test_without_the_cache_none_is_touched() -> None:
    fakes = FakeServices()
    await answer_of(fakes, replace(QUERY, use_cache=False))
    assert (fakes.answers.num_gets, fakes.answers.num_puts) == (0, 0)
    assert (fakes.encoder.calls, fakes.scorer.used_cache) == ([(QUERY.question, False)], [False])


async def test_filters_and_top_n_reach_the_index() -> None:
    fakes = FakeServices()
    await answer_of(fakes, replace(QUERY, top_n=2, filters=where({"kind": "river"})))
    assert fakes.index.calls == [(2, where({"kind": "river"}))]
    assert fakes.scorer.calls == [(QUERY.question, (RHINE, MONT_BLANC))]


async def test_scoring_has_its_share_of_the_time_that_is_left() -> None:
    fakes = FakeServices()
    fakes.encoder.meanwhile = lambda: fakes.clock.advance(4)
    await answer_of(fakes)
    assert fakes.scorer.deadlines_s == [pytest.approx(104 + SCORE_SHARE * 6)]
    assert fakes.generator.calls[0][3] == QUERY.deadline_s


async def test_late_scoring_leaves_the_answer_its_time() -> None:
    fakes = FakeServices()
    await answer_of(fakes)
    assert fakes.scorer.deadlines_s[0] < QUERY.deadline_s


async def test_each_stage_is_timed_by_itself_and_together() -> None:
    fakes = FakeServices()
    stages = [(fakes.encoder, 1), (fakes.index, 2), (fakes.scorer, 4), (fakes.generator, 8)]
    for fake, seconds in stages:
        fake.meanwhile = lambda seconds=seconds: fakes.clock.advance(seconds)  # type: ignore[attr-defined]
    answer = await answer_of(fakes)
    assert answer.timings == Timings(
        encode_s=1, search_s=2, score_s=4, generate_s=16, ttft_s=1 + 2 + 4 + 8, total_s=1 + 2 + 4 + 16
    )


async def test_caller_that_goes_away_ends_the_generation() -> None:
    fakes = FakeServices()
    stream = await fakes.pipeline().begin(QUERY)
    while not isinstance(await anext(stream), Delta):
        pass
    await stream.aclose()
    for _ in range(5):
        await asyncio.sleep(0)
    assert fakes.generator.num_open == 0
    assert fakes.answers.num_puts == 0
