"""Every Prometheus series of the service, on a registry that the caller brings.

Labels are closed sets (stages, kinds of cache entry, error codes, routes), never request content.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.types import Answer, Score, Timings, Usage

# Seconds: from a cache hit to a request at its deadline.
_LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The series; one instance per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "rankrag_requests", "Requests by route and status code.", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "rankrag_request_seconds", "Seconds from the first byte in to the last byte out.", ["route"],
            buckets=_LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("rankrag_requests_in_flight", "Requests under way.", registry=registry)
        self.errors = Counter("rankrag_errors", "Errors by code.", ["code"], registry=registry)
        self.stage_seconds = Histogram(
            "rankrag_stage_seconds", "Seconds per stage of one question.", ["stage"],
            buckets=_LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip
        self.pairs = Counter(
            "rankrag_pairs", "Pairs by where their score came from: the engine or the cache.", ["source"],
            registry=registry,
        )  # fmt: skip
        self.batch_pairs = Histogram(
            "rankrag_batch_pairs", "Pairs in one scoring call.", buckets=_BATCH_BUCKETS, registry=registry
        )
        self.tokens = Counter("rankrag_tokens", "Engine tokens by direction.", ["direction"], registry=registry)
        self.label_mass = Histogram(
            "rankrag_label_mass", "P(True) + P(False) of scored pairs; low means a wrong checkpoint or prompt.",
            buckets=(0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0), registry=registry,
        )  # fmt: skip
        self.cache = Counter(
            "rankrag_cache_lookups", "Cache look-ups by kind and result.", ["kind", "result"], registry=registry
        )
        self.cache_failures = Counter(
            "rankrag_cache_failures", "Times that Redis failed or was too slow.", registry=registry
        )
        self.answers = Counter("rankrag_answers", "Answers by outcome.", ["outcome"], registry=registry)
        self.degraded = Counter("rankrag_degraded", "Answers by declared degradation.", ["kind"], registry=registry)
        self.engine_up = Gauge("rankrag_engine_up", "1 while the last canary score came in time.", registry=registry)

    def observe_answer(self, answer: Answer) -> None:
        self.answers.labels("abstained" if answer.abstained else "answered").inc()
        for kind in answer.degraded:
            self.degraded.labels(kind).inc()
        self.observe_timings(answer.timings)
        self.observe_usage(answer.usage)
        for passage in answer.passages:
            if passage.score is not None and not answer.is_cached:
                self.label_mass.observe(passage.score.label_mass)

    def observe_timings(self, timings: Timings) -> None:
        for name, seconds in asdict(timings).items():
            if seconds is not None:
                self.stage_seconds.labels(name.removesuffix("_s")).observe(seconds)

    def observe_usage(self, usage: Usage) -> None:
        self.tokens.labels("prompt").inc(usage.prompt_tokens)
        self.tokens.labels("completion").inc(usage.completion_tokens)
        self.pairs.labels("engine").inc(usage.pairs_scored)
        self.pairs.labels("cache").inc(usage.pairs_cached)

    def observe_scores(self, scores: Sequence[Score], usage: Usage, timings: Timings) -> None:
        self.observe_timings(timings)
        self.observe_usage(usage)
        for score in scores:
            self.label_mass.observe(score.label_mass)
