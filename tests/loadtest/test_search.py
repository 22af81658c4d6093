"""The search finds the rate up to which a service keeps its promise."""

import pytest

from loadtest.search import MAX_LOWERS, search


@pytest.mark.parametrize("limit", [0.6, 1.7, 4.5, 6.0, 9.0, 11.0, 31.0])
def test_the_limit_is_found(limit: float) -> None:
    held, trials = search(10.0, lambda per_s: {"goodput_share": 1.0 if per_s <= limit else 0.5}, num_steps=6)
    assert held == pytest.approx(limit, abs=0.5)
    assert held <= limit
    assert all(trial.is_held == (trial.per_s <= limit) for trial in trials)


def test_where_nothing_holds_there_is_no_capacity() -> None:
    held, trials = search(10.0, lambda _: {"goodput_share": 0.1})
    assert held == 0.0
    assert len(trials) == MAX_LOWERS
