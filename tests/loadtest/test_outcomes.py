"""How visits are judged and summed up."""

import json
from dataclasses import replace

import pytest

from loadtest.outcomes import End, Exchange, Visit, measures, per_second, read_visit, summary, visit_row
from loadtest.profiles import Slo, Span

SLO = Slo(e2e_s=1.0, ttft_s=0.5)
GOOD = Visit("answer", 1.0, 1.01, 1.5, exchanges=(Exchange("/answer", 200),))


def with_status(*statuses: int) -> Visit:
    return replace(GOOD, exchanges=tuple(Exchange("/answer", status) for status in statuses))


@pytest.mark.parametrize(
    ("visit", "end"),
    [
        (GOOD, End.OK),
        (with_status(429), End.REFUSED),
        (with_status(504), End.TIMED_OUT),
        (with_status(503), End.ERROR),
        (with_status(0), End.UNANSWERED),
        (with_status(200, 429), End.REFUSED),
        (with_status(503, 0), End.UNANSWERED),
        (replace(GOOD, exchanges=(Exchange("/answer", 200, "no answer"),)), End.ERROR),
        (replace(GOOD, failure="KeyError: 'answer'"), End.ERROR),
        (replace(with_status(429), failure="KeyError: 'answer'"), End.REFUSED),
        (replace(GOOD, exchanges=()), End.ERROR),
    ],
)
def test_how_a_visit_ended(visit: Visit, end: End) -> None:
    assert visit.end is end


def test_time_counts_from_the_due_moment() -> None:
    late = replace(GOOD, sent_s=2.0, done_s=2.2, first_words_s=2.1)
    assert late.e2e_s == pytest.approx(1.2)
    assert late.ttft_s == pytest.approx(1.1)
    assert not late.is_good(SLO)


@pytest.mark.parametrize(
    ("visit", "is_good"),
    [
        (GOOD, True),
        (replace(GOOD, done_s=2.01), False),
        (replace(GOOD, first_words_s=1.4), True),
        (replace(GOOD, first_words_s=1.6), False),
        (with_status(429), False),
    ],
)
def test_good_is_answered_as_soon_as_promised(visit: Visit, is_good: bool) -> None:
    assert visit.is_good(SLO) is is_good


def test_a_visit_is_a_row_and_back() -> None:
    visit = replace(GOOD, first_words_s=1.2, notes=("cached",))
    assert read_visit(json.loads(json.dumps(visit_row(visit)))) == visit


def test_a_summary_counts_every_end() -> None:
    visits = [GOOD, GOOD, with_status(429), with_status(504), with_status(0), with_status(500), with_status(200)]
    visits[1] = replace(GOOD, done_s=5.0, notes=("rerank_skipped",))
    visits[0] = replace(GOOD, notes=("cached",))
    found = summary(visits, 2.0, SLO)
    assert (found["requests"], found["offered_per_s"], found["answered_per_s"]) == (7, 3.5, 1.5)
    assert found["goodput_per_s"] == 1.0
    assert found["goodput_share"] == pytest.approx(2 / 7)
    assert found["refused_share"] == found["degraded_share"] == found["cached_share"] == pytest.approx(1 / 7)
    assert (found["timed_out"], found["unanswered"], found["errors"]) == (1, 1, 1)
    assert found["e2e_p50_s"] == pytest.approx(0.5)
    assert found["late_p50_s"] == pytest.approx(0.01)
    assert "ttft_p50_s" not in found


def test_nothing_measured_is_no_success() -> None:
    assert summary([], 1.0, SLO)["goodput_share"] == 0.0


def test_phases_and_tasks_have_measures_of_their_own() -> None:
    laid = [Span("warm-up", 0, 1, 5, False), Span("calm", 1, 2, 5, True), Span("spike", 2, 4, 5, True)]
    visits = [replace(GOOD, due_s=due_s, done_s=due_s + 0.1) for due_s in (0.5, 1.5, 2.5, 3.5)]
    visits[3] = replace(visits[3], task="rerank", exchanges=(Exchange("/rerank", 429),))
    found = measures(visits, laid, SLO, capacity=2.0)
    assert found["requests"] == 3
    assert found["answered_of_capacity"] == pytest.approx(2 / 3 / 2)
    assert found["calm.goodput_share"] == 1.0
    assert found["spike.goodput_share"] == 0.5
    assert found["rerank.refused_share"] == 1.0
    assert found["answer.requests"] == 2


def test_ends_by_the_second() -> None:
    counts = per_second([GOOD, replace(GOOD, due_s=0.2), with_status(429)], 2)
    assert counts[End.OK] == [1, 1]
    assert counts[End.REFUSED] == [0, 1]
