"""The rules, the runbook and the dashboard: that they name what is there, and that none is forgotten."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from service.errors import error_tree
from tests import observability as seen

ALERTS = sorted(seen.alerts())


def cases() -> Iterator[dict[str, Any]]:
    for path in sorted(seen.RULE_TESTS.glob("*.yaml")):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            yield from test.get("alert_rule_test", [])


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet(alert: str) -> None:
    fires = {bool(case.get("exp_alerts")) for case in cases() if case["alertname"] == alert}
    assert fires == {True, False}


def test_cases_are_of_alerts_that_there_are() -> None:
    assert {case["alertname"] for case in cases()} == set(ALERTS)


def test_runbook_has_an_entry_for_each_alert_and_no_other() -> None:
    headings = re.findall(r"^## (\w+)$", seen.RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == ALERTS


@pytest.mark.parametrize("entry", re.split(r"^## ", seen.RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:])
def test_entry_says_what_it_means_what_to_look_at_and_what_to_do(entry: str) -> None:
    assert re.findall(r"\*\*(Meaning\.|Look at|Do)\*\*", entry) == ["Meaning.", "Look at", "Do"]


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_says_what_is_wrong_and_where_to_read_on(alert: str) -> None:
    rule = seen.alerts()[alert]
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    assert rule["labels"]["severity"] in {"critical", "warning"}


def test_no_alert_has_the_name_of_another() -> None:
    assert len(ALERTS) == sum("alert" in rule for rule in seen.rules())


def test_error_budget_counts_the_codes_that_are_the_services_own_fault() -> None:
    """Those that stop the start are none of a request's."""
    never_answered = {"config_error", "checkpoint_error", "corpus_error"}
    own = {error.code for error in error_tree() if error.status >= 500} - never_answered
    (rule,) = [rule for rule in seen.rules() if rule.get("record") == "rankrag:errors:rate5m"]
    (codes,) = re.findall(r'code=~"([^"]+)"', rule["expr"])
    assert set(codes.split("|")) == own


KNOWN = seen.service_series() | seen.recorded() | seen.PROMETHEUS_SERIES


@pytest.mark.parametrize("rule", seen.rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_reads_series_that_there_are(rule: dict[str, Any]) -> None:
    found = seen.series_in(rule["expr"])
    assert found
    assert found <= KNOWN


@pytest.mark.parametrize(("panel", "query"), list(seen.queries()))
def test_dashboard_reads_series_that_there_are(panel: str, query: str) -> None:
    histograms = {name + suffix for name in seen.VLLM_SERIES for suffix in ("", "_bucket", "_sum", "_count")}
    found = seen.series_in(query)
    assert found, panel
    assert found <= KNOWN | histograms, panel


def test_names_are_found_in_promql() -> None:
    query = (
        'sum by (a, le) (rate(x_total{b=~"y|z", c!="d"}[5m])) / (r:s:t5m > 0) and avg_over_time(u[1d] offset 30m) > 1'
    )
    assert seen.series_in(query) == {"x_total", "r:s:t5m", "u"}
    assert seen.series_in("histogram_quantile(0.9, sum by (le) (rate(vllm:q_bucket[1m]))) or vector(0)") == {
        "vllm:q_bucket"
    }


# The dashboard


def test_every_series_of_the_service_is_on_the_dashboard_or_in_a_rule() -> None:
    """A series that nobody looks at is only a cost."""
    read = set().union(*(seen.series_in(query) for _, query in seen.queries()))
    read |= set().union(*(seen.series_in(rule["expr"]) for rule in seen.rules()))
    names = {family.name for family in seen.metrics() if family.name.startswith("rankrag_")}
    assert {name for name in names if not any(series.startswith(name) for series in read)} == set()


def test_panels_say_what_they_show_in_which_unit() -> None:
    for panel in seen.panels():
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        assert panel["type"] == "heatmap" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"]), panel["title"]


def test_panels_do_not_lie_over_each_other() -> None:
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in seen.dashboard()["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert all(x < 24 for x, _ in places)
    ids = [panel["id"] for panel in seen.dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def test_rows_are_those_of_the_service() -> None:
    rows = [panel["title"] for panel in seen.dashboard()["panels"] if panel["type"] == "row"]
    assert rows == [
        "Traffic and objective", "Stages", "Scoring engine", "Caches", "Replicas", "vLLM", "Degraded and gate",
        "Process and traces",
    ]  # fmt: skip


def test_every_variable_of_a_query_is_one_that_can_be_picked() -> None:
    names = {f"${variable['name']}" for variable in seen.dashboard()["templating"]["list"]} | {"$__rate_interval"}
    for panel in seen.panels():
        for target in panel["targets"]:
            assert set(re.findall(r"\$\w+", target["expr"])) <= names, panel["title"]
