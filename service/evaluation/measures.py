"""Figures from what was observed: pure. ir-measures computes the rankings' ones, scipy the intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ir_measures
import numpy as np
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG
from scipy.stats import bootstrap

from service.core.ranking import is_part_of

MEASURES: Final = (R @ 1, R @ 5, R @ 10, R @ 20, R @ 100, RR @ 10, RR, nDCG @ 10)
NUM_RESAMPLES: Final = 2000
NUM_BINS: Final = 15
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Of a mean, with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs whose score lies in [low, high): their mean score and the share that is relevant."""

    low: float
    high: float
    num_pairs: int
    mean_score: float
    share_relevant: float


def document_ids(passage_ids: Sequence[str], relevant: Mapping[str, int]) -> list[str]:
    """The ids that relevance is known by: the first part of a relevant document stands for it.

    Places stay as they are. Its later parts keep their own ids, since nothing is found twice.
    """
    found: list[str] = []
    left = set(relevant)
    for id_ in passage_ids:
        document = next((document for document in left if is_part_of(id_, document)), None)
        found.append(id_ if document is None else document)
        left.discard(found[-1])
    return found


def per_question(
    relevant: Mapping[str, Mapping[str, int]], orders: Mapping[str, Sequence[str]], measures: Sequence[Any] = MEASURES
) -> dict[str, list[float]]:
    """Each measure's value for every question of `relevant`, in its order; 0 where nothing relevant was found.

    `orders` are passage ids, best first, by question.
    """
    qrels = [Qrel(query, doc, grade) for query, grades in relevant.items() for doc, grade in grades.items()]
    run = [
        ScoredDoc(query, id_, -float(rank))
        for query, order in orders.items()
        for rank, id_ in enumerate(document_ids(order, relevant[query]))
    ]
    values: dict[str, dict[str, float]] = {str(measure): dict.fromkeys(relevant, 0.0) for measure in measures}
    for metric in ir_measures.iter_calc(list(measures), qrels, run):
        values[str(metric.measure)][metric.query_id] = float(metric.value)
    return {name: list(by_query.values()) for name, by_query in values.items()}


def mean_interval(values: Sequence[float], seed: int) -> Interval:
    """Bootstrap interval of the mean (percentiles of resampled means; of paired differences, a paired one)."""
    if len(set(values)) <= 1:
        return Interval(values[0], values[0]) if values else Interval(0.0, 0.0)
    found = bootstrap(
        (np.asarray(values, dtype=float),), np.mean, confidence_level=CONFIDENCE, n_resamples=NUM_RESAMPLES,
        method="percentile", batch=200, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(float(found.low), float(found.high))


def reliability(scores: Sequence[float], labels: Sequence[bool], num_bins: int = NUM_BINS) -> list[Bin]:
    """Bins of equal width over [0, 1]; empty ones are left out."""
    given, truth = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    places = np.minimum((given * num_bins).astype(int), num_bins - 1)
    return [
        Bin(
            low=place / num_bins,
            high=(place + 1) / num_bins,
            num_pairs=int((places == place).sum()),
            mean_score=float(given[places == place].mean()),
            share_relevant=float(truth[places == place].mean()),
        )
        for place in sorted(set(places.tolist()))
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of score and share, weighted by pairs (Guo et al. 2017, arXiv 1706.04599, section 2)."""
    num_pairs = sum(bin_.num_pairs for bin_ in bins)
    return sum(bin_.num_pairs * abs(bin_.mean_score - bin_.share_relevant) for bin_ in bins) / max(num_pairs, 1)


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds."""
    return {f"p{part}": round(float(np.percentile(seconds, part)) * 1000, 3) for part in (50, 90, 99)}


@dataclass(frozen=True, slots=True)
class Abstention:
    """How often it said that it doesn't know. None where there was nothing to divide by."""

    num_abstained: int
    num_unanswerable: int
    precision: float | None
    recall: float | None
    share_of_answerable: float | None


def abstention(abstained: Sequence[bool], answerable: Sequence[bool]) -> Abstention:
    """Precision: of the abstentions, those with no answer to find. Recall: of those, how many it abstained on."""
    num_right = sum(gave_up and not can for gave_up, can in zip(abstained, answerable, strict=True))
    num_abstained, num_answerable = sum(abstained), sum(answerable)
    num_unanswerable = len(answerable) - num_answerable
    return Abstention(
        num_abstained=num_abstained,
        num_unanswerable=num_unanswerable,
        precision=num_right / num_abstained if num_abstained else None,
        recall=num_right / num_unanswerable if num_unanswerable else None,
        share_of_answerable=(num_abstained - num_right) / num_answerable if num_answerable else None,
    )
