"""What an offered load is judged by."""

import pytest

from loadtest.drive import Outcome, Reply
from loadtest.waits import DEADLINE_S, judge_load, latency_row


def outcome(reply: Reply, scheduled_s: float, done_s: float) -> Outcome:
    return Outcome(20, reply, scheduled_s, scheduled_s, done_s)


def test_good_is_complete_in_time_and_done_under_load() -> None:
    outcomes = [
        outcome(Reply.OK, 0, 1),
        outcome(Reply.OK, 0, DEADLINE_S + 0.1),
        outcome(Reply.OK, 19, 21),
        outcome(Reply.PARTIAL, 1, 2),
        outcome(Reply.TIMED_OUT, 1, 10),
        outcome(Reply.UNANSWERED, 1, 2),
    ]
    offered = judge_load(outcomes, load=2, duration_s=20, rss_peak_bytes=7)
    assert offered.offered_per_s == 6 / 20
    assert offered.good_per_s == 1 / 20
    assert (offered.counts["in time"], offered.counts["late"], offered.counts[Reply.OK]) == (2, 1, 3)
    assert (offered.counts[Reply.UNANSWERED], offered.counts[Reply.REFUSED]) == (1, 0)
    assert offered.refused_p99_s is None


def test_refusals_are_timed_from_when_they_were_due() -> None:
    outcomes = [outcome(Reply.REFUSED, 1, 1.01), outcome(Reply.REFUSED, 2, 2.03)]
    offered = judge_load(outcomes, load=3, duration_s=10, rss_peak_bytes=0)
    assert offered.refused_p99_s == pytest.approx(0.03, abs=0.001)
    assert (offered.good_per_s, offered.ok_p50_s) == (0, None)


def test_no_latencies_are_shown_as_none() -> None:
    assert latency_row("5 documents", []) == ("5 documents", "0", "-", "-", "-")
    assert latency_row("5 documents", [0.1, 0.3]) == ("5 documents", "2", "200", "290", "298")
