"""Scores from log-probabilities."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.scoring import UNCALIBRATED, Calibration, score_from_logprobs
from service.errors import EngineError

VLLM_MINIMUM = -9999.0
LOGPROBS = st.one_of(
    st.floats(-200, 0), st.floats(max_value=0, allow_nan=False), st.sampled_from([0.0, -math.inf, VLLM_MINIMUM])
)


@given(LOGPROBS, LOGPROBS)
def test_score_is_finite_and_between_0_and_1(true: float, false: float) -> None:
    score = score_from_logprobs(true, false)
    assert 0.0 <= score.relevance <= 1.0
    assert 0.0 <= score.label_mass <= 1.0


@given(st.floats(0.001, 0.999), st.floats(0.001, 1.0))
def test_score_is_the_share_of_true_in_the_mass(relevance: float, mass: float) -> None:
    score = score_from_logprobs(math.log(relevance * mass), math.log((1 - relevance) * mass))
    assert score.relevance == pytest.approx(relevance, abs=1e-9)
    assert score.label_mass == pytest.approx(mass, abs=1e-9)


@given(LOGPROBS, LOGPROBS, LOGPROBS)
def test_more_probable_true_never_scores_lower(one: float, other: float, false: float) -> None:
    low, high = sorted((one, other))
    assert score_from_logprobs(low, false).relevance <= score_from_logprobs(high, false).relevance + 1e-15


@given(st.floats(-30, 0), st.floats(-30, 0), st.floats(-30, 0))
def test_order_by_score_is_the_order_by_margin(one: float, other: float, false: float) -> None:
    scores = [score_from_logprobs(true, false).relevance for true in (one, other)]
    if one - other > 1e-3:
        assert scores[0] > scores[1]


@given(LOGPROBS, LOGPROBS)
def test_swapped_labels_give_the_opposite_score(true: float, false: float) -> None:
    score, swapped = score_from_logprobs(true, false), score_from_logprobs(false, true)
    assert score.relevance + swapped.relevance == pytest.approx(1.0)
    assert score.label_mass == swapped.label_mass


@pytest.mark.parametrize("never", [-math.inf, VLLM_MINIMUM])
def test_label_that_never_comes_decides_the_score(never: float) -> None:
    assert score_from_logprobs(math.log(0.5), never).relevance == 1.0
    assert score_from_logprobs(never, math.log(0.5)).relevance == 0.0


@pytest.mark.parametrize("never", [-math.inf, VLLM_MINIMUM])
def test_two_labels_that_never_come_are_a_draw_without_mass(never: float) -> None:
    score = score_from_logprobs(never, never)
    assert (score.relevance, score.label_mass) == (0.5, 0.0)


def test_labels_of_tiny_probability_still_compare() -> None:
    assert score_from_logprobs(-800.0, -801.0).relevance == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize(("true", "false"), [(math.nan, -1.0), (-1.0, math.nan), (math.nan, math.nan)])
def test_logprob_that_is_not_a_number_is_an_engine_error(true: float, false: float) -> None:
    with pytest.raises(EngineError, match="not a number"):
        score_from_logprobs(true, false)


CALIBRATIONS = st.builds(Calibration, slope=st.floats(0.01, 10), intercept=st.floats(-10, 10))


@given(LOGPROBS, LOGPROBS)
def test_no_calibration_changes_nothing(true: float, false: float) -> None:
    assert score_from_logprobs(true, false, UNCALIBRATED) == score_from_logprobs(true, false)


@given(CALIBRATIONS, LOGPROBS, LOGPROBS, LOGPROBS)
def test_calibration_never_changes_the_order(calibration: Calibration, one: float, other: float, false: float) -> None:
    low, high = sorted((one, other))
    scores = [score_from_logprobs(true, false, calibration).relevance for true in (low, high)]
    assert 0.0 <= scores[0] <= scores[1] + 1e-15 <= 1.0 + 1e-15


@given(CALIBRATIONS, LOGPROBS, LOGPROBS)
def test_calibration_leaves_the_label_mass(calibration: Calibration, true: float, false: float) -> None:
    mass = score_from_logprobs(true, false).label_mass
    assert score_from_logprobs(true, false, calibration).label_mass == mass


@given(st.floats(-9, 9), st.floats(0.2, 1), st.floats(-2, 2))
def test_margin_is_recovered_from_the_relevance(margin: float, slope: float, intercept: float) -> None:
    calibration = Calibration(slope, intercept)
    assert calibration.margin(calibration.relevance(margin)) == pytest.approx(margin, abs=1e-4)


@pytest.mark.parametrize("relevance", [0.0, 1.0])
def test_margin_of_a_certain_relevance_is_finite(relevance: float) -> None:
    assert math.isfinite(UNCALIBRATED.margin(relevance))


def test_calibration_is_the_logistic_of_the_scaled_margin() -> None:
    score = score_from_logprobs(-1.0, -3.0, Calibration(0.5, -1.0))
    assert score.relevance == pytest.approx(0.5)
