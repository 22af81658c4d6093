"""Platt scaling fitted to judged pairs."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.scoring import Calibration
from service.errors import ConfigError
from service.evaluation.calibration import fit, halves
from service.evaluation.measures import expected_calibration_error, reliability


def drawn(calibration: Calibration, count: int = 4000) -> tuple[list[float], list[bool]]:
    """Margins, and labels that are as probable as the calibration says."""
    rng = random.Random(7)
    margins = [rng.gauss(0, 3) for _ in range(count)]
    return margins, [rng.random() < calibration.relevance(margin) for margin in margins]


@pytest.mark.parametrize("truth", [Calibration(1.0, 0.0), Calibration(0.5, -1.0), Calibration(2.0, 1.5)])
def test_calibration_that_made_the_labels_is_found(truth: Calibration) -> None:
    found = fit(*drawn(truth))
    assert found.slope == pytest.approx(truth.slope, rel=0.15)
    assert found.intercept == pytest.approx(truth.intercept, abs=0.2)


def test_calibrated_scores_are_probabilities() -> None:
    margins, labels = drawn(Calibration(0.3, -2.0))
    fitted = fit(margins[::2], labels[::2])
    held_out, truth = margins[1::2], labels[1::2]
    before = expected_calibration_error(reliability([Calibration().relevance(m) for m in held_out], truth))
    after = expected_calibration_error(reliability([fitted.relevance(m) for m in held_out], truth))
    assert before > 0.2
    assert after < 0.05


@pytest.mark.parametrize("label", [True, False])
def test_pairs_that_are_all_judged_alike_are_refused(label: bool) -> None:
    with pytest.raises(ConfigError, match="judged alike"):
        fit([0.0, 1.0], [label, label])


def test_scores_that_are_the_wrong_way_round_are_not_turned_round() -> None:
    margins, labels = drawn(Calibration(1.0, 0.0))
    with pytest.raises(ConfigError, match="nothing is written"):
        fit(margins, [not label for label in labels])


@given(st.lists(st.integers(), unique=True), st.integers(0, 5))
def test_halves_share_nothing_and_lose_nothing(items: list[int], seed: int) -> None:
    one, other = halves(items, seed)
    assert sorted(one + other) == sorted(items)
    assert len(one) - len(other) in (0, 1)
    assert halves(items, seed) == (one, other)
