"""A real Prometheus, with the rules and the dashboard's queries, over real services and a real vLLM."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from mirakuru import HTTPExecutor
from prometheus_client.parser import text_string_to_metric_families

from service.local_stack import HOST, free_port
from tests import observability as seen
from tests.integration.conftest import Settings, Start, Vllm, wait_until
from tests.integration.test_evaluation import inverted_probe
from tests.otlp import Collector, attributes, listening

SEEN_WITHIN_S = 30.0
RATES_AFTER_S = 15.0
NUM_ROUNDS = 8
QUESTIONS = seen.ROOT / "demo" / "questions.jsonl"

# It shows nothing until one fires.
MAY_BE_EMPTY = {"Alerts"}

VARIABLES = ["label_values(rankrag_engine_up, job)", "label_values(vllm:num_requests_running, job)"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with listening() as collector:
        yield collector


@pytest.fixture(scope="module")
def gated(
    start_service: Start, settings: Settings, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A service whose checkpoint fails its gate, and reranks all the same; and which is traced."""
    probe = inverted_probe(tmp_path_factory.mktemp("probe") / "inverted.jsonl")
    gate = {"RANKRAG_GATE__PROBE": str(probe), "RANKRAG_GATE__OVERRIDE": "true"}
    return start_service({**settings, **gate, "RANKRAG_TRACING__ENDPOINT": collector.url})


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Its HTTP API."""

    http: httpx.Client

    def query(self, expression: str) -> list[dict[str, Any]]:
        body = self.http.get("/api/v1/query", params={"query": expression}).json()
        assert body["status"] == "success", (expression, body)
        result: list[dict[str, Any]] = body["data"]["result"]
        return result

    def firing(self) -> dict[str, dict[str, str]]:
        alerts = self.http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}


def configuration(**targets: str) -> dict[str, Any]:
    """Every second, since a test can't wait for minutes; the rules are as they are."""
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(seen.RULES)],
        "scrape_configs": [
            {"job_name": name.replace("_", "-"), "static_configs": [{"targets": [url.removeprefix("http://")]}]}
            for name, url in targets.items()
        ],
    }


@pytest.fixture(scope="module")
def prometheus(service: str, gated: str, vllm: Vllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    assert shutil.which("prometheus"), "`make setup-prometheus` installs it"
    directory, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (directory / "prometheus.yml").write_text(
        yaml.safe_dump(configuration(rankrag=service, rankrag_gated=gated, rankrag_vllm=vllm.url))
    )
    command = (
        f"exec prometheus --config.file {directory}/prometheus.yml --storage.tsdb.path {directory}/data "
        f"--web.listen-address {HOST}:{port} --log.level warn > {directory}/log 2>&1"
    )
    with (
        HTTPExecutor(command, f"http://{HOST}:{port}/-/ready", shell=True, method="GET", timeout=60),
        httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30) as http,
    ):
        yield Prometheus(http)


@pytest.fixture(scope="module")
def observed(service: str, gated: str, prometheus: Prometheus) -> Prometheus:
    """Prometheus after questions of every kind: so many that shares are taken of them, so long that there are rates."""
    questions = [json.loads(line)["question"] for line in QUESTIONS.read_text().splitlines()[:12]]
    documents = [f"Mont Blanc is {height} metres high." for height in range(20)]
    ends_s = time.monotonic() + RATES_AFTER_S
    with httpx.Client(timeout=60) as http:
        for number in count():
            if number >= NUM_ROUNDS and time.monotonic() > ends_s:
                break
            for question in questions:
                http.post(f"{service}/answer", json={"question": question})
                http.post(f"{service}/rerank", json={"query": question, "documents": documents})
            http.post(f"{service}/answer", json={"question": questions[number % 12], "cache": False})
            http.post(f"{service}/answer", json={"question": ""})
            http.post(f"{gated}/answer", json={"question": questions[number % 12], "cache": False})
    time.sleep(2)  # one more scrape and one more evaluation
    return prometheus


def promtool(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)


def test_rules_are_right() -> None:
    checked = promtool("check", "rules", "--lint-fatal", str(seen.RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", sorted(seen.RULE_TESTS.glob("*.yaml")), ids=lambda path: path.name)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    tested = promtool("test", "rules", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_wrong_expectation_is_seen(tmp_path: Path) -> None:
    """That the test above can fail at all."""
    cases = yaml.safe_load((seen.RULE_TESTS / "alerts.yaml").read_text())
    cases["rule_files"] = [str(seen.RULES)]
    cases["tests"] = [test for test in cases["tests"] if "Redis failed" in test["name"]]
    cases["tests"][0]["alert_rule_test"][0]["exp_alerts"] = [{"exp_labels": {"job": "rankrag"}}]
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(cases))
    tested = promtool("test", "rules", str(tmp_path / "wrong.yaml"))
    assert tested.returncode != 0
    assert "RankragRedisFailing" in tested.stdout + tested.stderr


def test_metrics_follow_the_conventions_of_prometheus(service: str) -> None:
    checked = promtool("check", "metrics", text=httpx.get(f"{service}/metrics", timeout=30).text)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_vllm_has_the_series_that_the_dashboard_reads(vllm: Vllm) -> None:
    families = text_string_to_metric_families(httpx.get(f"{vllm.url}/metrics", timeout=30).text)
    names = {sample.name for family in families for sample in family.samples}
    histograms = {name.removesuffix("_bucket") for name in names if name.endswith("_bucket")}
    assert names | histograms >= seen.VLLM_SERIES


def test_every_target_is_scraped(observed: Prometheus) -> None:
    jobs = {sample["metric"]["job"]: sample["value"][1] for sample in observed.query("up")}
    assert jobs == {"rankrag": "1", "rankrag-gated": "1", "rankrag-vllm": "1"}


@pytest.mark.parametrize(("panel", "query"), list(seen.queries()))
def test_query_of_the_dashboard_finds_something(panel: str, query: str, observed: Prometheus) -> None:
    found = observed.query(query)
    assert found or panel in MAY_BE_EMPTY
    assert any(sample["value"][1] != "NaN" for sample in found) or panel in MAY_BE_EMPTY


@pytest.mark.parametrize("variable", VARIABLES)
def test_variable_of_the_dashboard_has_values(variable: str, observed: Prometheus) -> None:
    assert variable in {entry.get("definition") for entry in seen.dashboard()["templating"]["list"]}
    series, label = variable.removeprefix("label_values(").removesuffix(")").split(", ")
    assert {sample["metric"][label] for sample in observed.query(series)}


@pytest.mark.parametrize("rule", [rule["record"] for rule in seen.rules() if "record" in rule])
def test_recorded_series_is_there(rule: str, observed: Prometheus) -> None:
    wait_until(lambda: bool(observed.query(rule)), within_s=SEEN_WITHIN_S)


def test_failed_gate_fires_and_nothing_else_does(observed: Prometheus) -> None:
    wait_until(lambda: "RankragGateFailed" in observed.firing(), within_s=SEEN_WITHIN_S)
    assert observed.firing().keys() == {"RankragGateFailed"}
    assert observed.firing()["RankragGateFailed"]["job"] == "rankrag-gated"
    assert observed.query('count(ALERTS{alertname=~"Rankrag.*",alertstate="firing"})')[0]["value"][1] == "1"


def test_service_is_traced_by_its_environment_alone(observed: Prometheus, collector: Collector) -> None:
    wait_until(lambda: bool(collector.all_named("POST /answer")), within_s=SEEN_WITHIN_S)
    server = collector.all_named("POST /answer")[0]
    assert attributes(server)["http.response.status_code"] == 200
    stages = {span.name: span for span in collector.spans if span.trace_id == server.trace_id}
    assert {"encode", "search", "score", "keep", "generate"} <= stages.keys()
    links = {link.span_id for batch in collector.all_named("score_batch") for link in batch.links}
    assert stages["score"].span_id in links
    assert observed.query('rankrag_spans_total{result="exported"}')
