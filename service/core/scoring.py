"""From two log-probabilities to a score."""

import math
from dataclasses import dataclass
from typing import Final

from service.errors import EngineError
from service.types import Score


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling of the margin log P(True) - log P(False), fitted to judged pairs (Platt 1999).

    The slope is above 0, so that it moves thresholds and never the order.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def relevance(self, margin: float) -> float:
        """The probability, in [0, 1], that a pair with this margin is relevant."""
        return _logistic(self.slope * margin + self.intercept)

    def margin(self, relevance: float) -> float:
        """The margin that gives this relevance. Relevances next to 0 and 1 count as a billionth from there."""
        clipped = min(max(relevance, 1e-9), 1 - 1e-9)
        return (math.log(clipped) - math.log1p(-clipped) - self.intercept) / self.slope


UNCALIBRATED: Final = Calibration()


def score_from_logprobs(logprob_true: float, logprob_false: float, calibration: Calibration = UNCALIBRATED) -> Score:
    """P(True) / (P(True) + P(False)) and the mass of both labels (arXiv 2407.02485, section 4.3).

    The paper ranks by P(True); dividing by the mass keeps the order whenever the labels hold the mass, and
    makes the score usable as a threshold, the more so with the checkpoint's own `calibration`. Computed as a
    logistic of the difference, so that labels of tiny probability still compare.

    Raises:
        EngineError: a log-probability is not a number: nothing is scored by guess.
    """
    if math.isnan(logprob_true) or math.isnan(logprob_false):
        raise EngineError("the engine returned a log-probability that is not a number")
    margin = logprob_true - logprob_false
    relevance = calibration.relevance(0.0 if math.isnan(margin) else margin)
    mass = math.exp(min(logprob_true, 0.0)) + math.exp(min(logprob_false, 0.0))
    return Score(relevance=relevance, label_mass=min(mass, 1.0))


def _logistic(margin: float) -> float:
    if margin >= 0:
        return 1.0 / (1.0 + math.exp(-margin))
    return math.exp(margin) / (1.0 + math.exp(margin))
