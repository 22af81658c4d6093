"""Medians, percentiles and verdicts."""

from statistics import quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.measures import (
    Measurement,
    Result,
    Table,
    Verdict,
    best,
    is_passed,
    median_ratio,
    percentile,
    rate_rows,
    rates,
)

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40)
EMPTY = Table((), ())


def measured(contender: str, number: int, *, seconds: float = 1.0, num_failed: int = 0) -> Measurement:
    return Measurement(contender, number, 100, num_failed, seconds, 0.25)


@given(VALUES)
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    expected = quantiles(values, n=100, method="inclusive")
    assert [percentile(values, percent) for percent in (1, 50, 95, 99)] == pytest.approx(
        [expected[percent - 1] for percent in (1, 50, 95, 99)], abs=1e-6
    )
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)


def test_one_value_is_every_percentile() -> None:
    assert percentile([3.0], 95) == 3.0


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@pytest.mark.parametrize(("value", "passed"), [(0.89, False), (0.9, True), (1.2, True), (None, False)])
def test_at_least(value: float | None, passed: bool) -> None:
    assert Verdict("bar", "at least", 0.9, value).is_passed is passed


@pytest.mark.parametrize(("value", "passed"), [(0.0, True), (2.5, True), (2.51, False), (None, False)])
def test_at_most(value: float | None, passed: bool) -> None:
    assert Verdict("bar", "at most", 2.5, value).is_passed is passed


def test_a_rate_counts_what_succeeded() -> None:
    assert measured("ours", 0, seconds=2.0, num_failed=40).rate == 30


def test_series_are_in_the_order_of_rounds() -> None:
    found = [measured("b", 1, seconds=2), measured("a", 1, seconds=4), measured("a", 0), measured("b", 0)]
    assert rates(found) == {"a": [100, 25], "b": [100, 50]}


def test_the_best_has_the_best_median_not_the_luckiest_round() -> None:
    assert best({"lucky": [1, 1, 9], "steady": [2, 2, 2]}) == "steady"


def test_ratios_are_within_rounds() -> None:
    """The machine was half as fast in the second round, and both contenders with it."""
    assert median_ratio([90, 45, 80], [100, 50, 100]) == 0.9


def test_rows_show_the_share_of_the_reference_and_failures() -> None:
    found = [
        measured("list", 0),
        measured("ours", 0, seconds=2),
        measured("list", 1),
        measured("ours", 1, num_failed=5),
    ]
    table = rate_rows(found, "list")
    assert [row[0] for row in table.rows] == ["list", "ours"]
    assert table.rows[1] == ("ours", "72.5", "50.0 to 95.0", "0.72", "25%", "5")
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_scenario_that_did_not_run_is_no_success() -> None:
    good = Result("unique", EMPTY, (Verdict("bar", "at least", 1, 2),))
    assert is_passed([good])
    assert not is_passed([good, Result("replicas", EMPTY, (), error="two URLs are not understood")])
    assert not is_passed([good, Result("latency", EMPTY, (Verdict("bar", "at most", 1, 2),))])
