"""The same figures through HTTP and in process, over the same fakes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from service.app import create_app
from service.errors import ConfigError, EngineError, OverloadedError, RerankGatedError
from service.evaluation.contexts import candidates_or_index
from service.evaluation.http_target import HttpTarget
from service.evaluation.pipeline_target import PipelineTarget
from service.evaluation.reports import report_answers, report_calibration, report_ranking, report_retrieval, verdict_of
from service.evaluation.runs import Effort, answer_all, rank_all, retrieve_all
from service.evaluation.targets import Target
from service.settings import Settings
from service.types import JudgedQuestion
from tests.fakes import EIGER, MONT_BLANC, PASSAGES, RHINE, FakeServices, client_of

QUESTION = "mont blanc rises"
JUDGED = [
    JudgedQuestion("q1", QUESTION, ("4,806 metres",), {"mont-blanc": 1}, PASSAGES, "mont-blanc"),
    JudgedQuestion("q2", "the rhine", ("a river",), {"rhine": 1}),
    JudgedQuestion("q3", "why", (), {}, PASSAGES),
]
KINDS = ["http", "in process"]


@asynccontextmanager
async def target_of(kind: str, fakes: FakeServices) -> AsyncIterator[Target]:
    if kind == "in process":
        yield PipelineTarget(fakes.pipeline(), Settings(), "models/fake")
        return
    async with client_of(create_app(Settings(), fakes.open)) as client:
        yield HttpTarget(client)


def effort() -> Effort:
    return Effort(2, lambda: None)


@pytest.mark.parametrize("kind", KINDS)
async def test_passages_are_ranked_in_the_order_given(kind: str) -> None:
    async with target_of(kind, FakeServices()) as target:
        found = await target.rank(QUESTION, [EIGER, MONT_BLANC])
    assert (found.ids, found.relevances, found.num_tokens) == (("eiger", "mont-blanc"), (1 / 3, 1.0), 2)


@pytest.mark.parametrize("kind", KINDS)
async def test_retrieved_passages_come_with_all_their_scores(kind: str) -> None:
    async with target_of(kind, FakeServices()) as target:
        found = await target.retrieve_and_rank(QUESTION, 3)
        assert await target.retrieve(QUESTION, 2) == ("rhine", "mont-blanc")
    assert (found.ids, found.relevances) == (("rhine", "mont-blanc", "eiger"), (0.0, 1.0, 1 / 3))


@pytest.mark.parametrize("kind", KINDS)
async def test_answer_says_what_it_was_made_from(kind: str) -> None:
    fakes = FakeServices()
    async with target_of(kind, fakes) as target:
        found = await target.answer(QUESTION, None, top_n=3, top_k=2)
        given = await target.answer(QUESTION, [RHINE, MONT_BLANC], top_n=None, top_k=None)
        assert target.checkpoint == "models/fake"
    assert (found.text, found.retrieved, found.kept) == (
        "4,806 metres", ("rhine", "mont-blanc", "eiger"), ("mont-blanc", "eiger"),
    )  # fmt: skip
    assert (found.num_pairs, found.num_tokens, found.is_abstention) == (3, 43, False)
    assert (given.retrieved, given.kept) == (("rhine", "mont-blanc"), ("mont-blanc", "rhine"))
    assert fakes.answers.num_gets == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_whole_runs_give_the_same_reports(kind: str) -> None:
    async with target_of(kind, FakeServices()) as target:
        ranked = await rank_all(target, JUDGED, top_n=3, seed=1, effort=effort())
        answered = await answer_all(target, JUDGED, candidates_or_index, top_n=3, top_k=3, effort=effort())
        retrieved = await retrieve_all(target, JUDGED, top_n=3, effort=effort())
    assert [one.before for one in ranked] == [("rhine", "mont-blanc", "eiger")] * 3
    ranking = report_ranking(ranked, seed=1).results
    assert ranking["measures"]["R@1"]["before"] == 0.5
    assert ranking["measures"]["R@1"]["after"] == 1.0
    assert "R@5" not in ranking["measures"]  # the rankings are three deep
    assert ranking["counts"] == {"questions": 3, "judged": 2}
    assert ranking["cost"]["pairs"] == 9
    assert report_retrieval(retrieved, seed=1).results["measures"]["R@1"]["mean"] == 0.5
    assert (verdict_of(ranked).num_retrieved, verdict_of(ranked).num_reranked) == (2, 2)
    answers = report_answers(answered, seed=1).results
    assert (answers["answers"]["EM"]["mean"], answers["answers"]["EM"]["count"]) == (0.5, 2)
    assert answers["abstention"]["num_unanswerable"] == 1
    assert answers["abstention"]["recall"] == 0.0


async def test_degraded_answers_are_no_measurement() -> None:
    fakes = FakeServices()
    fakes.scorer.error = EngineError("gone")
    async with target_of("http", fakes) as target:
        with pytest.raises(EngineError, match="degraded"):
            await target.answer(QUESTION, None, top_n=3, top_k=2)
        with pytest.raises(EngineError, match="503: gone"):
            await target.rank(QUESTION, [RHINE])


async def test_error_of_the_service_is_told_with_its_message() -> None:
    fakes = FakeServices(has_index=False)
    async with target_of("http", fakes) as target:
        with pytest.raises(EngineError, match="503: no index is loaded"):
            await target.retrieve(QUESTION, 3)


async def test_busy_service_is_asked_again() -> None:
    fakes = FakeServices()
    fakes.scorer.error = OverloadedError("full", retry_after_s=7)
    slept_s: list[float] = []

    def recover() -> None:
        if len(fakes.scorer.calls) == 3:
            fakes.scorer.error = None

    async def sleep(seconds: float) -> None:
        slept_s.append(seconds)

    fakes.scorer.meanwhile = recover
    async with client_of(create_app(Settings(), fakes.open)) as client:
        assert (await HttpTarget(client, sleep=sleep).rank(QUESTION, [MONT_BLANC])).relevances == (1.0,)
    assert (len(fakes.scorer.calls), slept_s) == (3, [7, 7])


async def test_check_learns_what_is_served_and_whether_it_ranks() -> None:
    fakes = FakeServices()
    async with client_of(create_app(Settings(), fakes.open)) as client:
        target = HttpTarget(client)
        await target.check()
        assert target.checkpoint == "models/fake"
        fakes.scorer.error = RerankGatedError("may not rerank")
        with pytest.raises(EngineError, match="503: may not rerank"):
            await target.check()


async def test_service_that_is_not_there_is_named() -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:1") as http:
        with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:1.* can't be reached"):
            await HttpTarget(http).rank(QUESTION, [RHINE])


async def test_pipeline_without_an_index_asks_for_one() -> None:
    fakes = FakeServices(has_index=False)
    async with target_of("in process", fakes) as target:
        with pytest.raises(ConfigError, match="--index"):
            await target.retrieve(QUESTION, 3)


async def test_first_failure_ends_a_run() -> None:
    fakes = FakeServices()
    fakes.scorer.error = EngineError("gone")
    async with target_of("in process", fakes) as target:
        with pytest.raises(EngineError, match="gone"):
            await rank_all(target, JUDGED, top_n=3, seed=1, effort=effort())


def test_calibration_report_has_both_errors() -> None:
    report = report_calibration([], [], {"slope": 1.0, "intercept": 0.0, "num_pairs": 5})
    assert report.results["ece"] == {"before": 0.0, "after": 0.0}
