"""From two log-probabilities to a score."""

import math

from service.errors import EngineError
from service.types import Score


def score_from_logprobs(logprob_true: float, logprob_false: float) -> Score:
    """P(True) / (P(True) + P(False)) and the mass of both labels (arXiv 2407.02485, section 4.3).

    The paper ranks by P(True); dividing by the mass keeps the order whenever the labels hold the mass, and
    makes the score usable as a threshold. Computed as a logistic of the difference, so that labels of
    tiny probability still compare.

    Raises:
        EngineError: a log-probability is not a number: nothing is scored by guess.
    """
    if math.isnan(logprob_true) or math.isnan(logprob_false):
        raise EngineError("the engine returned a log-probability that is not a number")
    margin = logprob_true - logprob_false
    relevance = 0.5 if math.isnan(margin) else _logistic(margin)
    mass = math.exp(min(logprob_true, 0.0)) + math.exp(min(logprob_false, 0.0))
    return Score(relevance=relevance, label_mass=min(mass, 1.0))


def _logistic(margin: float) -> float:
    if margin >= 0:
        return 1.0 / (1.0 + math.exp(-margin))
    return math.exp(margin) / (1.0 + math.exp(margin))
