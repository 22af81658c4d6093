"""Figures of rankings, intervals, calibration and abstention."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evaluation.measures import (
    abstention,
    document_ids,
    expected_calibration_error,
    mean_interval,
    per_question,
    percentiles_ms,
    reliability,
)

ORDER = [f"p{number}" for number in range(30)]
PAIRS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (0, {"R@1": 1, "R@5": 1, "R@20": 1, "RR@10": 1, "RR": 1, "nDCG@10": 1}),
        (1, {"R@1": 0, "R@5": 1, "R@20": 1, "RR@10": 1 / 2, "RR": 1 / 2, "nDCG@10": 0.6309}),
        (5, {"R@1": 0, "R@5": 0, "R@20": 1, "RR@10": 1 / 6, "RR": 1 / 6, "nDCG@10": 0.3562}),
        (20, {"R@1": 0, "R@5": 0, "R@20": 0, "R@100": 1, "RR@10": 0, "RR": 1 / 21, "nDCG@10": 0}),
    ],
)
def test_measures_of_one_relevant_passage(place: int, expected: dict[str, float]) -> None:
    found = per_question({"q": {ORDER[place]: 1}}, {"q": ORDER})
    assert {name: found[name][0] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_question_for_which_nothing_was_found_counts_as_zero() -> None:
    found = per_question({"q1": {"p0": 1}, "q2": {"none": 1}, "q3": {"p0": 1}}, {"q1": ORDER, "q2": ORDER, "q3": []})
    assert found["R@1"] == [1.0, 0.0, 0.0]


def test_values_come_in_the_order_of_the_questions() -> None:
    relevant = {f"q{number}": {ORDER[number]: 1} for number in (3, 0, 2, 1)}
    assert per_question(relevant, dict.fromkeys(relevant, ORDER))["RR"] == pytest.approx([1 / 4, 1, 1 / 3, 1 / 2])


def test_half_of_two_relevant_passages_is_half_the_recall() -> None:
    assert per_question({"q": {"p0": 1, "p7": 2}}, {"q": ORDER})["R@5"] == [0.5]


def test_first_part_of_a_document_stands_for_it() -> None:
    assert document_ids(["b#0", "a#2", "a#0", "ab"], {"a": 1}) == ["b#0", "a", "a#0", "ab"]


@given(st.lists(st.sampled_from(["a", "a#0", "a#1", "b", "b#0", "c"]), unique=True))
def test_places_stay_and_no_id_comes_twice(ids: list[str]) -> None:
    found = document_ids(ids, {"a": 1})
    assert len(found) == len(ids)
    if "a" not in ids:
        assert len(set(found)) == len(found)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_interval_lies_among_the_values_and_holds_their_mean_or_touches_it(values: list[float]) -> None:
    interval = mean_interval(values, seed=1)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


def test_interval_depends_on_the_seed_alone() -> None:
    rng = random.Random(0)
    values = [rng.gauss(0.1, 1) for _ in range(50)]
    assert mean_interval(values, 1) == mean_interval(values, 1)
    assert mean_interval(values, 1) != mean_interval(values, 2)


def test_interval_of_a_clear_difference_does_not_touch_zero() -> None:
    assert mean_interval([1.0] * 60 + [0.0] * 40, seed=1).low > 0.4
    assert mean_interval([1.0] * 5 + [-1.0] * 5, seed=1).low < 0


@pytest.mark.parametrize("values", [[0.5], [0.5] * 10, [0.0] * 3])
def test_interval_of_equal_values_is_that_value(values: list[float]) -> None:
    interval = mean_interval(values, seed=1)
    assert (interval.low, interval.high) == (values[0], values[0])


@given(PAIRS)
def test_bins_hold_every_pair_once(pairs: list[tuple[float, bool]]) -> None:
    bins = reliability([score for score, _ in pairs], [label for _, label in pairs])
    assert sum(bin_.num_pairs for bin_ in bins) == len(pairs)
    assert all(bin_.low - 1e-9 <= bin_.mean_score <= bin_.high + 1e-9 for bin_ in bins)
    assert 0.0 <= expected_calibration_error(bins) <= 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1.0, 0.0], [True, False], 0.0),
        ([1.0, 0.0], [False, True], 1.0),
        ([0.5, 0.5], [True, False], 0.0),
        ([0.9, 0.9, 0.9, 0.9], [True, False, False, False], 0.65),
        ([0.9, 0.9, 0.1, 0.1], [True, True, True, False], 0.25),
    ],
)
def test_calibration_error_is_the_distance_from_the_truth(
    scores: list[float], labels: list[bool], expected: float
) -> None:
    assert expected_calibration_error(reliability(scores, labels)) == pytest.approx(expected)


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles_ms([number / 1000 for number in range(1, 102)]) == {"p50": 51.0, "p90": 91.0, "p99": 100.0}


def test_abstention_is_right_where_there_is_no_answer() -> None:
    found = abstention([True, True, False, False, True], [False, True, False, True, True])
    assert (found.num_abstained, found.num_unanswerable) == (3, 2)
    assert found.precision == pytest.approx(1 / 3)
    assert found.recall == pytest.approx(1 / 2)
    assert found.share_of_answerable == pytest.approx(2 / 3)


def test_abstention_without_anything_to_divide_by_has_no_figure() -> None:
    found = abstention([False], [True])
    assert (found.precision, found.recall, found.share_of_answerable) == (None, None, 0.0)
