"""A promise that was broken is a failure, named with an example; one that was kept is none."""

from dataclasses import replace

import pytest

from tests.chaos.asks import Pool
from tests.chaos.faults import ALL, SHORT, Fault
from tests.chaos.observer import INTERVAL_S, Sighting, increments, read_metrics, said_down, unready_s
from tests.chaos.report import Expectations, Judged, Window, row
from tests.chaos.stack import Epoch, Stack
from tests.chaos.verdicts import Outcome, Pair, Reply, Verdict

ASK = Pool({"q": ("a",)}).ask("rerank", "q")
PAIR = Pair("q", "", "a")
EXPECTED = Expectations({PAIR: 0.5}, lambda _: False, lambda _: "v1")


async def nothing(_: Stack) -> None:
    """No fault."""


async def at_once(_: Stack) -> float:
    return 1.0


FAULT = Fault("nothing", nothing, at_once, frozenset({"engine_unavailable"}))
WINDOW = Window(FAULT, 0.0, 1.0, 0.5, 10.0, is_service_running=True)


def judged(verdict: Verdict, due_s: float = 1.0) -> Judged:
    return Judged(ASK, Reply(due_s, due_s, due_s + 0.1, 200), verdict)


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(Outcome.OK, scores={PAIR: 0.505}, index_version="v1"),
        Verdict(Outcome.ERROR, "engine_unavailable"),
    ],
)
def test_a_kept_promise_is_no_failure(verdict: Verdict) -> None:
    assert row(WINDOW, [judged(verdict)], [], EXPECTED).failures == []


@pytest.mark.parametrize(
    ("verdict", "failure"),
    [
        (Verdict(Outcome.HUNG, "9 s"), "1 hung past"),
        (Verdict(Outcome.BROKEN, "200: <html>"), "1 malformed"),
        (Verdict(Outcome.LOST, "ReadError"), "1 lost while"),
        (Verdict(Outcome.ERROR, "overloaded"), "does not excuse"),
        (Verdict(Outcome.DEGRADED, "rerank_skipped"), "degraded for no reason"),
        (Verdict(Outcome.OK, scores={PAIR: 0.6}), "nobody computed"),
        (Verdict(Outcome.OK, scores={Pair("q", "", "b"): 0.5}), "nobody computed"),
        (Verdict(Outcome.OK, index_version="v2"), "another index"),
    ],
)
def test_a_broken_promise_is_a_failure(verdict: Verdict, failure: str) -> None:
    (said,) = row(WINDOW, [judged(verdict)], [], EXPECTED).failures
    assert failure in said
    assert "rerank sent at +1.00 s" in said


@pytest.mark.parametrize(
    ("window", "failure"),
    [
        (replace(WINDOW, recovery_s=None), "never well again"),
        (replace(WINDOW, recovery_s=10.1), "well again after 10.1 s"),
        (replace(WINDOW, is_service_running=False), "the service died"),
    ],
)
def test_so_is_a_service_that_does_not_recover(window: Window, failure: str) -> None:
    (said,) = row(window, [], [], EXPECTED).failures
    assert failure in said


def test_requests_belong_to_the_window_in_which_they_were_due() -> None:
    found = row(WINDOW, [judged(Verdict(Outcome.OK), due_s) for due_s in (-0.1, 0.0, 9.9, 10.0)], [], EXPECTED)
    assert found.outcomes == {"ok": 2}


def stack_with(*epochs: Epoch) -> Stack:
    stack = object.__new__(Stack)
    stack.epochs = list(epochs)
    return stack


@pytest.mark.parametrize(
    ("sent_s", "done_s", "after_kill", "after_term"),
    [
        (1.0, 2.0, False, False),  # answered long before the end
        (9.0, 10.5, True, False),  # under way at the end: SIGTERM has to let it finish
        (10.5, 10.6, True, True),  # nobody was there
        (12.5, 12.6, False, False),  # the next one is there
    ],
)
def test_who_may_be_lost(sent_s: float, done_s: float, after_kill: bool, after_term: bool) -> None:
    lost = Reply(sent_s, sent_s, done_s, None)
    for is_killed, may_be_lost in ((True, after_kill), (False, after_term)):
        first = Epoch("v1", 0.0, answers_s=0.5, ended_s=10.0, is_killed=is_killed)
        stack = stack_with(first, Epoch("v2", 11.0, answers_s=12.0))
        assert stack.may_be_lost(lost) is may_be_lost


def test_the_index_of_each_life_is_known() -> None:
    stack = stack_with(Epoch("v1", 0.0), Epoch("v2", 11.0))
    assert [stack.index_version_at(moment) for moment in (5.0, 12.0)] == ["v1", "v2"]


def test_metrics_are_read_by_process() -> None:
    started, counters, gauges = read_metrics(
        "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 7.5\n"
        "# TYPE rankrag_errors counter\n"
        'rankrag_errors_total{code="overloaded"} 3.0\nrankrag_errors_created{code="overloaded"} 9.0\n'
        "# TYPE rankrag_cache_failures counter\nrankrag_cache_failures_total 1.0\n"
        "# TYPE rankrag_engine_up gauge\nrankrag_engine_up 1.0\n"
    )
    assert started == 7.5
    assert counters == {"errors:overloaded": 3.0, "cache_failures": 1.0}
    assert gauges == {"rankrag_engine_up": 1.0}


def seen(at_s: float, process: float, errors: float, *, is_ready: bool | None = True) -> Sighting:
    return Sighting(at_s, is_ready, () if is_ready else ("engine",), process, {"errors:overloaded": errors})


def test_a_new_process_counts_from_zero_and_an_old_one_from_where_it_was() -> None:
    sightings = [seen(0, 1, 5), seen(1, 1, 7), Sighting(2, None), seen(3, 2, 4), seen(4, 2, 4)]
    assert increments(sightings, since_s=1) == {"errors:overloaded": 6}
    assert increments(sightings, since_s=4) == {}


def test_unready_is_red_or_not_there() -> None:
    sightings = [seen(0, 1, 0), seen(1, 1, 0, is_ready=False), Sighting(2, None)]
    assert unready_s(sightings) == 2 * INTERVAL_S
    assert said_down(sightings) == ["engine"]


def test_there_are_faults_enough() -> None:
    assert len({fault.name for fault in ALL}) >= 15
    assert set(SHORT) < set(ALL)
    assert len(SHORT) >= 8
