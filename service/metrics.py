"""Every Prometheus series of the service, on a registry that the caller brings.

Labels are closed sets (stages, kinds of cache entry, error codes, routes), never request content.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from service.core.gate import GATE_STATES, GateStatus
from service.errors import error_tree
from service.types import Answer, Degradation, Priority, Score, Timings, Usage

# Seconds: from a cache hit to a request at its deadline.
_LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_STAGES: Final = tuple(field.name for field in fields(Timings))


def stages(timings: Timings) -> Iterator[tuple[str, float]]:
    """The name and seconds of each stage that ran."""
    for name in _STAGES:
        seconds = getattr(timings, name)
        if seconds is not None:
            yield name.removesuffix("_s"), seconds


def _of_class(waits_s: Callable[[], Mapping[int, float]], priority: Priority) -> float:
    return waits_s().get(priority, 0.0)


class Metrics:
    """The series; one instance per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)  # memory, file descriptors, CPU, the process's start
        self.tasks = Gauge("rankrag_tasks", "Tasks of the event loop.", registry=registry)
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
        self.cache_failures = Counter("rankrag_cache_failures", "Times that Redis failed.", registry=registry)
        self.cache_slow = Counter(
            "rankrag_cache_slow", "Reads of Redis that were passed over, since they took too long.", registry=registry
        )
        self.cache_dropped = Counter(
            "rankrag_cache_dropped", "Entries that were not written to Redis: too many waited.", registry=registry
        )
        self.key_reloads = Counter(
            "rankrag_key_reloads", "Changes of the key file, taken over or refused.", ["result"], registry=registry
        )
        self.rate_limit_failures = Counter(
            "rankrag_rate_limit_failures", "Times that Redis could not count requests, and this process did.",
            registry=registry,
        )  # fmt: skip
        self.answers = Counter("rankrag_answers", "Answers by outcome.", ["outcome"], registry=registry)
        self.citations = Counter(
            "rankrag_citations", "Citations by whether the passages hold the cited words; dropped ones aren't shown.",
            ["result"], registry=registry,
        )  # fmt: skip
        self.degraded = Counter("rankrag_degraded", "Responses by declared degradation.", ["kind"], registry=registry)
        self.engine_up = Gauge("rankrag_engine_up", "1 while at least one replica may get work.", registry=registry)
        self.replicas = Gauge(
            "rankrag_replicas", "vLLM servers, known and ready (their last canary score came in time).", ["state"],
            registry=registry,
        )  # fmt: skip
        self.gate = Gauge(
            "rankrag_gate", "1 for what the ranking gate says, if there is one.", ["state"], registry=registry
        )
        self.gate_recall = Gauge(
            "rankrag_gate_recall", "R@5 on the gate's probe: in the retriever's order, and reranked.", ["order"],
            registry=registry,
        )  # fmt: skip
        self.rerank_on = Gauge(
            "rankrag_rerank_on", "1 while the checkpoint may rerank: no gate, passed, or overridden.", registry=registry
        )
        self.rerank_on.set(1)
        self.scoring = {
            name: Gauge(f"rankrag_{name}", text, registry=registry)
            for name, text in (
                ("queued_pairs", "Pairs that wait for a replica with room."),
                ("queued_tokens", "Prompt tokens of the pairs that wait."),
                ("outstanding_tokens", "Prompt tokens of the pairs that replicas are computing."),
                ("scoring_requests", "Requests that wait for scores."),
                ("scoring_calls", "Scoring calls under way."),
            )
        }
        self.queue_age = Gauge(
            "rankrag_queue_age_seconds", "Of each class, how long the oldest request with a waiting pair has waited.",
            ["priority"], registry=registry,
        )  # fmt: skip
        self.pairs_joined = Counter(
            "rankrag_pairs_joined", "Pairs that another request was already waiting for: computed once for both.",
            registry=registry,
        )  # fmt: skip
        self.spans = Counter(
            "rankrag_spans", "Spans by what became of them: exported, or lost.", ["result"], registry=registry
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Series that can be named beforehand are there from the start: then their first increase shows, too."""
        for kind in get_args(Degradation):
            self.degraded.labels(kind)
        for outcome in ("answered", "abstained"):
            self.answers.labels(outcome)
        for result in ("verified", "dropped"):
            self.citations.labels(result)
        for source in ("engine", "cache"):
            self.pairs.labels(source)
        for direction in ("prompt", "completion"):
            self.tokens.labels(direction)
        for error in error_tree():
            self.errors.labels(error.code)
        for priority in Priority:
            self.queue_age.labels(priority.name.lower())
        for result in ("taken_over", "refused"):
            self.key_reloads.labels(result)

    def observe_key_reload(self, is_taken_over: bool) -> None:
        self.key_reloads.labels("taken_over" if is_taken_over else "refused").inc()

    def observe_replicas(self, num_ready: int, num_known: int) -> None:
        self.replicas.labels("ready").set(num_ready)
        self.replicas.labels("known").set(num_known)
        self.engine_up.set(min(num_ready, 1))

    def observe_gate(self, status: GateStatus) -> None:
        for state in GATE_STATES:
            self.gate.labels(state).set(state == status.state)
        self.rerank_on.set(status.is_open)
        if status.verdict is not None:
            self.gate_recall.labels("retrieved").set(status.verdict.retrieved_recall)
            self.gate_recall.labels("reranked").set(status.verdict.reranked_recall)

    def watch_scoring(self, **values: Callable[[], float]) -> None:
        """Read the gauges of `scoring`, by name, from these functions whenever metrics are asked for."""
        for name, value in values.items():
            self.scoring[name].set_function(value)

    def watch_waits(self, waits_s: Callable[[], Mapping[int, float]]) -> None:
        """Read the age of the queue from this function, by class; one that isn't in it waits for nothing."""
        for priority in Priority:
            age = self.queue_age.labels(priority.name.lower())
            age.set_function(partial(_of_class, waits_s, priority))

    def count_spans(self, result: str, count: int) -> None:
        self.spans.labels(result).inc(count)

    def observe_answer(self, answer: Answer) -> None:
        self.answers.labels("abstained" if answer.abstained else "answered").inc()
        self.observe_degraded(answer.degraded)
        self.observe_timings(answer.timings)
        self.observe_usage(answer.usage)
        if answer.is_cached:
            return
        self.citations.labels("verified").inc(len(answer.citations))
        self.citations.labels("dropped").inc(answer.citations_dropped)
        for passage in answer.passages:
            if passage.score is not None:
                self.label_mass.observe(passage.score.label_mass)

    def observe_degraded(self, degraded: Sequence[Degradation]) -> None:
        for kind in degraded:
            self.degraded.labels(kind).inc()

    def observe_timings(self, timings: Timings) -> None:
        for name, seconds in stages(timings):
            self.stage_seconds.labels(name).observe(seconds)

    def observe_usage(self, usage: Usage) -> None:
        self.tokens.labels("prompt").inc(usage.prompt_tokens)
        self.tokens.labels("completion").inc(usage.completion_tokens)
        self.pairs.labels("engine").inc(usage.pairs_scored)
        self.pairs.labels("cache").inc(usage.pairs_cached)

    def observe_scores(
        self, scores: Sequence[Score | None], degraded: Sequence[Degradation], usage: Usage, timings: Timings
    ) -> None:
        """One /rerank; pairs that have no score are no evidence of the label mass."""
        self.observe_degraded(degraded)
        self.observe_timings(timings)
        self.observe_usage(usage)
        for score in scores:
            if score is not None:
                self.label_mass.observe(score.label_mass)
