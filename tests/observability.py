"""What the rules, the runbook and the dashboard say, read once for the tests about them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from service.metrics import Metrics

ROOT: Final = Path(__file__).parents[1]
RULES: Final = ROOT / "helm" / "rankrag" / "files" / "rules.yaml"
RULE_TESTS: Final = ROOT / "tests" / "alerts"
DASHBOARD: Final = ROOT / "helm" / "rankrag" / "files" / "dashboard.json"
RUNBOOK: Final = ROOT / "docs" / "runbook.md"

# Of vLLM 0.32, without the suffixes of histograms. The tests on the real vLLM find each there.
VLLM_SERIES: Final = frozenset(
    {
        "vllm:e2e_request_latency_seconds",
        "vllm:generation_tokens_total",
        "vllm:kv_cache_usage_perc",
        "vllm:num_preemptions_total",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:prefix_cache_hits_total",
        "vllm:prefix_cache_queries_total",
        "vllm:prompt_tokens_total",
        "vllm:request_queue_time_seconds",
        "vllm:time_to_first_token_seconds",
    }
)
PROMETHEUS_SERIES: Final = frozenset({"up", "ALERTS"})

_SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}

# What a user of the dashboard picks, or Grafana fills in.
VARIABLES: Final[Mapping[str, str]] = {"$job": ".+", "$vllm": ".+", "$__rate_interval": "1m"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """The title and the PromQL of each query of the dashboard, its variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], filled_in(target["expr"])
    for annotation in dashboard()["annotations"]["list"]:
        yield annotation["name"], filled_in(annotation["expr"])


def filled_in(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def metrics() -> list[Metric]:
    """The families that the service defines itself, those of its process with them."""
    return list(Metrics(CollectorRegistry()).registry.collect())


def service_series() -> set[str]:
    return {family.name + suffix for family in metrics() for suffix in _SUFFIXES[family.type]}


def series_in(expression: str) -> set[str]:
    """The names of the series that a PromQL expression reads."""
    without_strings = re.sub(r'"[^"]*"', "", expression)
    without_labels = re.sub(r"\{[^}]*\}|\b(?:by|ignoring|on|group_left|group_right)\s*\([^)]*\)", "", without_strings)
    words = re.findall(r"(?<![\w:$])[a-zA-Z_:][\w:]*(?!\w|\s*\()", re.sub(r"\[[^\]]*\]", "", without_labels))
    return {word for word in words if word not in {"or", "and", "unless", "offset", "bool", "by"}}
