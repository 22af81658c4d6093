"""The gate at work: over fakes of the scorer, the retriever and the cache."""

from collections.abc import Sequence
from typing import Any

import pytest

from service.adapters.memory_cache import MemoryCache
from service.adapters.ranking_gate import KIND, GatedScorer, Probe, RankingGate, check_probe
from service.core.gate import GateStatus
from service.errors import ConfigError, EngineError, OverloadedError, RankRAGError, RequestError, RerankGatedError
from service.pipeline import Retriever
from service.types import JudgedQuestion, Passage, Priority
from tests.fakes import Clock, FakeEncoder, FakeIndex, FakeScorer

CANDIDATES = tuple(Passage(f"p{number}", f"passage {number}") for number in range(8))
FIRST = JudgedQuestion("q1", "first?", relevant={"p0": 1}, candidates=CANDIDATES)
LAST = JudgedQuestion("q2", "last?", relevant={"p7": 1}, candidates=CANDIDATES)


def right(question: str, passage: Passage) -> float:
    return float(passage.id == {"first?": "p0", "last?": "p7"}[question])


def wrong(question: str, passage: Passage) -> float:
    return 1.0 - right(question, passage)


def memory() -> MemoryCache:
    return MemoryCache({KIND: 60}, max_entries=10)


def gate_of(
    scorer: FakeScorer, questions: Sequence[JudgedQuestion] = (FIRST, LAST), *, cache: MemoryCache | None = None,
    key: str = "key", **more: Any,
) -> RankingGate:  # fmt: skip
    async def no_time(_: float) -> None:
        return

    return RankingGate(
        Probe(questions, top_n=20, key=key), scorer, more.pop("retriever", None), cache or memory(),
        clock=Clock(), sleep=no_time, **more,
    )  # fmt: skip


async def test_checkpoint_that_ranks_well_passes() -> None:
    gate = gate_of(FakeScorer(right))
    await gate.run()
    assert (gate.status.state, gate.status.is_open) == ("passed", True)
    assert gate.status.verdict is not None
    assert (gate.status.verdict.num_retrieved, gate.status.verdict.num_reranked) == (1, 2)
    gate.require()


async def test_checkpoint_that_ranks_badly_may_not_rerank() -> None:
    gate = gate_of(FakeScorer(wrong))
    await gate.run()
    assert (gate.status.state, gate.status.is_open) == ("failed", False)
    with pytest.raises(RerankGatedError, match=r"failed: R@5 0\.500 by the retriever, 0\.000 after"):
        gate.require()


async def test_nothing_is_reranked_before_the_verdict() -> None:
    gate = gate_of(FakeScorer(right))
    with pytest.raises(RerankGatedError, match="unproven") as caught:
        gate.require()
    assert caught.value.retry_after_s == 5


async def test_operator_may_rerank_in_spite_of_it_and_it_still_says_so() -> None:
    gate = gate_of(FakeScorer(wrong), is_overridden=True)
    gate.require()
    await gate.run()
    gate.require()
    assert (gate.status.state, gate.status.is_open) == ("failed", True)
    assert "overridden" in gate.status.text


async def test_every_status_is_observed() -> None:
    seen: list[GateStatus] = []
    gate = gate_of(FakeScorer(right), observe=seen.append)
    await gate.run()
    assert [status.state for status in seen] == ["unproven", "passed"]


async def test_probe_is_bulk_work_over_the_rows_own_candidates() -> None:
    scorer = FakeScorer(right)
    await gate_of(scorer).run()
    assert sorted(scorer.calls) == [("first?", CANDIDATES), ("last?", CANDIDATES)]
    assert scorer.priorities == [Priority.BULK] * 2
    assert scorer.top_ks == [None, None]


async def test_questions_without_candidates_are_retrieved_for() -> None:
    retriever = Retriever(FakeEncoder(), FakeIndex(CANDIDATES))
    gate = gate_of(FakeScorer(right), [JudgedQuestion("q2", "last?", relevant={"p7": 1})], retriever=retriever)
    await gate.run()
    assert gate.status.verdict is not None
    assert (gate.status.verdict.num_retrieved, gate.status.verdict.num_reranked) == (0, 1)


async def test_part_of_a_relevant_document_is_relevant() -> None:
    parts = (Passage("a#0", "one"), Passage("a#1", "two"), Passage("ab#0", "three"))
    retriever = Retriever(FakeEncoder(), FakeIndex(parts))
    gate = gate_of(FakeScorer(), [JudgedQuestion("q", "a?", relevant={"a": 1})], retriever=retriever)
    await gate.run()
    assert gate.status.state == "passed"


async def test_verdict_is_remembered_by_its_key() -> None:
    cache, scorer = memory(), FakeScorer(wrong)
    await gate_of(scorer, cache=cache).run()
    again = gate_of(scorer, cache=cache)
    await again.run()
    assert (again.status.state, len(scorer.calls)) == ("failed", 2)
    other = gate_of(FakeScorer(right), cache=cache, key="another checkpoint")
    await other.run()
    assert other.status.state == "passed"


async def test_verdict_that_a_slow_cache_has_a_little_later_is_not_asked_for_again() -> None:
    cache, scorer = memory(), FakeScorer(wrong)
    await gate_of(scorer, cache=cache).run()
    late = memory()

    async def arrive(_: float) -> None:
        await late.set_many(KIND, {"key": (await cache.get_many(KIND, ["key"]))[0] or b""})

    gate = RankingGate(Probe([FIRST, LAST], 20, "key"), scorer, None, late, clock=Clock(), sleep=arrive)
    await gate.run()
    assert (gate.status.state, len(scorer.calls)) == ("failed", 2)


async def test_remembered_verdict_that_cannot_be_read_is_forgotten() -> None:
    cache = memory()
    await cache.set_many(KIND, {"key": b"{"})
    gate = gate_of(FakeScorer(right), cache=cache)
    await gate.run()
    assert gate.status.state == "passed"


@pytest.mark.parametrize("error", [EngineError("not up yet"), OverloadedError("busy")])
async def test_engine_that_is_not_there_yet_is_waited_for(error: RankRAGError) -> None:
    scorer = FakeScorer(right, error=error)
    num_failures = 0

    async def recover(_: float) -> None:
        nonlocal num_failures
        num_failures += 1
        if num_failures == 4:
            scorer.error = None

    gate = RankingGate(Probe([FIRST], 20, "key"), scorer, None, memory(), clock=Clock(), sleep=recover)
    await gate.run()
    assert (gate.status.state, num_failures) == ("passed", 4)


async def test_question_that_cannot_be_ranked_is_named() -> None:
    with pytest.raises(ConfigError, match="'q1' can't be ranked: too long"):
        await gate_of(FakeScorer(error=RequestError("too long")), [FIRST]).run()


async def test_probe_of_another_index_is_an_error() -> None:
    retriever = Retriever(FakeEncoder(), FakeIndex(CANDIDATES))
    with pytest.raises(ConfigError, match="proves nothing"):
        await gate_of(FakeScorer(), [JudgedQuestion("q", "q?", relevant={"none": 1})], retriever=retriever).run()


def test_only_judged_questions_are_probed() -> None:
    unanswerable = JudgedQuestion("q3", "why?", answers=())
    assert check_probe([FIRST, unanswerable], has_index=False) == [FIRST]
    with pytest.raises(ConfigError, match="no question with a relevant passage"):
        check_probe([unanswerable], has_index=True)


def test_questions_without_candidates_need_an_index() -> None:
    question = JudgedQuestion("q", "q?", relevant={"p": 1})
    assert check_probe([question], has_index=True) == [question]
    with pytest.raises(ConfigError, match="need an index"):
        check_probe([question], has_index=False)


async def test_closed_gate_scores_nothing_and_admits_without_pairs() -> None:
    inner = FakeScorer(wrong)
    gate = gate_of(inner)
    scorer = GatedScorer(inner, gate)
    scorer.admit(20, deadline_s=9.0, priority=Priority.ANSWER)
    assert inner.admitted == [(0, 9.0, Priority.ANSWER)]
    with pytest.raises(RerankGatedError):
        await scorer.score("first?", CANDIDATES, deadline_s=9.0, use_cache=True)
    assert inner.calls == []


async def test_open_gate_passes_everything_on() -> None:
    inner = FakeScorer(right)
    gate = gate_of(inner)
    await gate.run()
    scorer, num_before = GatedScorer(inner, gate), len(inner.calls)
    scorer.admit(20, deadline_s=9.0, priority=Priority.ANSWER)
    scored = await scorer.score(
        "first?", CANDIDATES, deadline_s=7.0, use_cache=False, priority=Priority.ANSWER, top_k=3, allow_partial=True
    )
    assert (inner.admitted, len(inner.calls)) == ([(20, 9.0, Priority.ANSWER)], num_before + 1)
    assert (inner.deadlines_s[-1], inner.used_cache[-1], inner.top_ks[-1]) == (7.0, False, 3)
    assert [score.relevance for score in scored.scores if score] == [1.0] + [0.0] * 7
