"""Every series: its name, its unit, its labels."""

from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from service.core.gate import GATE_STATES, GateStatus
from service.errors import error_tree
from service.metrics import Metrics
from service.types import Degradation, Priority, Timings
from tests import observability as seen

OWN = [family for family in seen.metrics() if family.name.startswith("rankrag_")]

# https://prometheus.io/docs/practices/naming/: the base unit in the plural; what is counted is a unit, too.
UNITS = {
    "seconds",
    "tokens",
    "pairs",
    "requests",
    "calls",
    "replicas",
    "spans",
    "lookups",
    "answers",
    "citations",
    "errors",
    "tasks",
}
WITHOUT_UNIT = {
    "rankrag_label_mass", "rankrag_gate_recall",  # shares
    "rankrag_engine_up", "rankrag_gate", "rankrag_rerank_on",  # 0 or 1
    "rankrag_requests_in_flight", "rankrag_cache_failures", "rankrag_cache_slow", "rankrag_cache_dropped",
    "rankrag_degraded", "rankrag_pairs_joined", "rankrag_key_reloads", "rankrag_rate_limit_failures",
}  # fmt: skip


@pytest.mark.parametrize("family", OWN, ids=lambda family: family.name)
def test_name_ends_in_its_base_unit(family: Metric) -> None:
    assert family.name in WITHOUT_UNIT or family.name.rpartition("_")[2] in UNITS
    assert not family.name.endswith(("_ms", "_milliseconds", "_kb", "_percent"))


@pytest.mark.parametrize("family", OWN, ids=lambda family: family.name)
def test_help_is_a_sentence(family: Metric) -> None:
    assert len(family.documentation.split()) >= 3
    assert family.documentation.endswith(".")


def test_series_that_can_be_named_beforehand_begin_at_zero() -> None:
    registry = Metrics(CollectorRegistry()).registry
    begun = [("rankrag_degraded_total", {"kind": kind}) for kind in get_args(Degradation)]
    begun += [("rankrag_errors_total", {"code": error.code}) for error in error_tree()]
    begun += [("rankrag_queue_age_seconds", {"priority": priority.name.lower()}) for priority in Priority]
    begun += [("rankrag_answers_total", {"outcome": outcome}) for outcome in ("answered", "abstained")]
    begun += [("rankrag_pairs_total", {"source": source}) for source in ("engine", "cache")]
    for name, labels in begun:
        assert registry.get_sample_value(name, labels) == 0, (name, labels)


def test_age_of_the_queue_is_asked_for_when_it_is_read() -> None:
    metrics, waits_s = Metrics(CollectorRegistry()), dict[int, float]()
    metrics.watch_waits(lambda: waits_s)
    waits_s[Priority.INTERACTIVE] = 2.5
    ages = {
        name: metrics.registry.get_sample_value("rankrag_queue_age_seconds", {"priority": name})
        for name in ("answer", "interactive", "bulk")
    }
    assert ages == {"answer": 0, "interactive": 2.5, "bulk": 0}


def test_labels_are_of_closed_sets() -> None:
    """Of the rest the values come from the code: routes, status codes, kinds of cache entry, results."""
    metrics = Metrics(CollectorRegistry())
    metrics.observe_timings(Timings(1, 1, 1, 1, 1, 1, 1))
    metrics.observe_gate(GateStatus())
    values: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    values.pop("le")
    assert values == {
        "kind": set(get_args(Degradation)),
        "code": {error.code for error in error_tree()},
        "priority": {priority.name.lower() for priority in Priority},
        "outcome": {"answered", "abstained"},
        "source": {"engine", "cache"},
        "direction": {"prompt", "completion"},
        "state": set(GATE_STATES),
        "result": {"taken_over", "refused", "verified", "dropped"},
        "stage": {"rewrite", "encode", "search", "score", "generate", "ttft", "total"},
    }


def test_process_is_measured_too() -> None:
    registry = Metrics(CollectorRegistry()).registry
    assert registry.get_sample_value("process_resident_memory_bytes")
