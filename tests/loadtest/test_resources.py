"""What a run held, from the text of /metrics."""

import pytest

from loadtest.profiles import Span
from loadtest.resources import Sample, cache_lookups, growth, hit_shares, read_sample

TEXT = """# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1000.0
# TYPE process_open_fds gauge
process_open_fds 20.0
# TYPE rankrag_tasks gauge
rankrag_tasks 7.0
# TYPE rankrag_cache_lookups counter
rankrag_cache_lookups_total{kind="score",result="hit"} 30.0
rankrag_cache_lookups_total{kind="score",result="miss"} 10.0
rankrag_cache_lookups_total{kind="answer",result="miss"} 5.0
rankrag_cache_lookups_created{kind="answer",result="miss"} 17.0
"""


def test_what_is_held_is_read() -> None:
    assert read_sample(2.0, TEXT) == Sample(2.0, {"rss_bytes": 1000.0, "fds": 20.0, "tasks": 7.0})


def test_hits_are_those_of_the_run() -> None:
    before = {"score:hit": 20.0, "score:miss": 10.0}
    assert hit_shares(before, cache_lookups(TEXT)) == {"answer_hit_share": 0.0, "score_hit_share": 1.0}


LAID = [Span("rest before", 0, 10, 0, False), Span("soak", 10, 110, 5, True), Span("rest after", 110, 120, 0, False)]


def samples(rss: float, tasks_after: float) -> list[Sample]:
    """Memory that grows evenly to `rss` times what it was; while it works there are more tasks."""
    held = [Sample(at_s, {"rss_bytes": 100.0, "tasks": 50.0 if at_s < 5 else 8.0}) for at_s in range(10)]
    held += [Sample(at_s, {"rss_bytes": 100 + (rss - 1) * (at_s - 10), "tasks": 40.0}) for at_s in range(10, 110)]
    return held + [Sample(at_s, {"rss_bytes": 100.0 * rss, "tasks": tasks_after}) for at_s in range(110, 120)]


def test_growth_is_from_the_beginning_of_a_phase_to_its_end() -> None:
    assert growth(samples(1.0, 8.0), LAID)["soak.rss_growth"] == 0.0
    assert growth(samples(2.0, 8.0), LAID)["soak.rss_growth"] == pytest.approx(0.86, abs=0.01)


def test_what_is_left_over_shows_in_the_last_rest() -> None:
    assert growth(samples(1.0, 8.0), LAID)["rest_tasks_growth"] == 0.0
    assert growth(samples(1.0, 11.0), LAID)["rest_tasks_growth"] == 3.0


def test_without_rests_or_samples_nothing_is_said() -> None:
    assert growth([], LAID) == {}
    assert growth(samples(1.0, 8.0), LAID[1:2]).keys() == {"soak.rss_growth"}
