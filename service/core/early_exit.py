"""When the passages to keep are settled, so that the others need not be scored.

Passages come in the retriever's order, and are scored in two or three waves in that order. After each wave the
rule asks: how probable is it that the passage that answers the question has not been scored yet? By Bayes' rule:

- *Before scoring*, the passage at rank r of n answers with probability proportional to (r - 0.67) ** -1.23. One
  part in five of it is spread evenly instead, since the order may come from a retriever that is worse than the one
  it was learnt from, or be no ranking at all.
- *A score* multiplies this by its odds, relevance / (1 - relevance), to the power 0.6: checkpoints are surer than
  they are right, the more so where the passages of one question resemble each other. A passage without a score
  keeps what it had. Odds end at a million, so that no score is certainty.

What the unscored passages then hold of the sum is the chance that the answer is among them. The kept are settled
when it is at most `max_left`, some passage is rather relevant than not, and `top_k` are scored. Hence

- where nothing looks relevant everything is scored;
- how sure a score must be depends on where it stands: 0.95 at rank 1 settles more than 0.99 at rank 6;
- scores known from a cache count, wherever they stand, and a higher score never makes for more scoring.

It is a rule for *an* answer, not for all of them: where several passages answer, some of them may stay unscored.
And it believes that scores of irrelevant passages are as a rule below 0.5: one that says True to everything
settles everything at once. Measure a checkpoint with `python -m loadtest.eval_early_exit measure` first.

The constants were fitted to 600 questions of data/train (`python -m loadtest.eval_early_exit fit`). On 600 of data/dev
with 20 passages each (`measure --seed 7`, demo checkpoint): off R@5 0.793; `on` 0.803 for 0.56 of the pairs,
`aggressive` 0.800 for 0.45. It rises because what is not scored can't come out first by mistake, as it does with a
weak ranker. With a simulated strong one (log-odds of gold raised by 3, of others lowered by 2) R@5 fell by 0.003 for
0.48 of the pairs, and by 0.015 for 0.43.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from service.types import Score

EarlyExit: TypeAlias = Literal["off", "on", "aggressive"]

# Fitted: how fast the passage that answers gets rarer by rank, and what a score's odds are worth.
RANK_OFFSET = 0.67
RANK_EXPONENT = 1.23
ODDS_EXPONENT = 0.6

# Chosen: the part of the rank's prior that doesn't trust the order, and what no score goes beyond.
EVEN_SHARE = 0.2
MAX_ODDS = 1e6

# A wave is a round trip to the engine, in which it could score several pairs: a smaller one doesn't pay.
MIN_WAVE = 4


@dataclass(frozen=True, slots=True)
class ExitRule:
    """Which pairs to score next; the module's docstring says why.

    `stops` are the shares of all passages after which scoring may stop, rising. `max_left` is the chance of an
    answer among the unscored with which it does; with 0 it never stops.
    """

    stops: tuple[float, ...] = ()
    max_left: float = 0.0

    def next_wave(self, scores: Sequence[Score | None], *, top_k: int) -> list[int]:
        """Indices to score next, rising; empty when the best `top_k` are settled.

        `scores` are those so far, in the retriever's order, None where there is none. O(n).
        """
        unscored = [index for index, score in enumerate(scores) if score is None]
        if not unscored or self._is_settled(scores, len(scores) - len(unscored), top_k):
            return []
        end = next(end for end in self._ends(len(scores), top_k) if end > unscored[0])
        return [index for index in unscored if index < end]

    def _is_settled(self, scores: Sequence[Score | None], num_scored: int, top_k: int) -> bool:
        is_found = any(score is not None and score.relevance > 0.5 for score in scores)
        return is_found and num_scored >= top_k and chance_left(scores) <= self.max_left

    def _ends(self, num_passages: int, top_k: int) -> Iterator[int]:
        """Where waves end, rising, the last one with all; none has fewer than `MIN_WAVE` passages but the only one."""
        end = 0
        for stop in self.stops:
            end = max(math.ceil(stop * num_passages), top_k, end + MIN_WAVE)
            if end > num_passages - MIN_WAVE:
                break
            yield end
        yield num_passages


_RULES: Mapping[EarlyExit, ExitRule] = {
    "off": ExitRule(),
    "on": ExitRule(stops=(0.3, 0.6), max_left=0.08),
    "aggressive": ExitRule(stops=(0.3, 0.6), max_left=0.15),
}


def exit_rule(mode: EarlyExit) -> ExitRule:
    """The rule behind the setting; "off" scores everything in one wave."""
    return _RULES[mode]


def chance_left(scores: Sequence[Score | None]) -> float:
    """The probability that the passage that answers, if there is one, is not scored yet; 0 if all are. O(n)."""
    scored = unscored = 0.0
    for prior, score in zip(rank_priors(len(scores)), scores, strict=True):
        if score is None:
            unscored += prior
        else:
            scored += prior * evidence(score)
    return unscored / (scored + unscored) if unscored else 0.0


def rank_priors(num_passages: int) -> list[float]:
    """By rank, the probability that this passage is the one that answers; they sum to 1."""
    weights = [(rank - RANK_OFFSET) ** -RANK_EXPONENT for rank in range(1, num_passages + 1)]
    total = sum(weights)
    return [(1 - EVEN_SHARE) * weight / total + EVEN_SHARE / num_passages for weight in weights]


def evidence(score: Score) -> float:
    """How much likelier the score is for a passage that answers than for one that doesn't: a likelihood ratio."""
    odds = score.relevance / max(1 - score.relevance, 1 / MAX_ODDS)
    return float(odds**ODDS_EXPONENT)
