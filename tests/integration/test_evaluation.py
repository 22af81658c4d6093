"""Evaluation of the demo checkpoint: through HTTP on vLLM as in this process; and what the gate makes of it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from service.adapters.judged_files import read_judged
from service.cli import app
from service.evaluation.collections import sampled
from service.evaluation.contexts import gold_contexts
from service.evaluation.http_target import HttpTarget
from service.evaluation.in_process import open_in_process
from service.evaluation.pipeline_target import PipelineTarget
from service.evaluation.reports import report_answers, report_ranking
from service.evaluation.runs import Effort, answer_all, rank_all
from service.evaluation.targets import Target
from service.settings import Settings as ServiceSettings
from tests.integration.conftest import CHECKPOINT, INDEX, ROOT, Settings, Start, wait_until

QUESTIONS = ROOT / "demo" / "questions.jsonl"
NUM_QUESTIONS = 12
TOLERANCE = 0.01
PROBED_WITHIN_S = 120.0


@pytest.fixture
def local() -> PipelineTarget:
    return open_in_process(ServiceSettings(checkpoint=str(CHECKPOINT)), INDEX)


@asynccontextmanager
async def http_target(url: str) -> AsyncIterator[Target]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        yield HttpTarget(http)


def effort() -> Effort:
    return Effort(2, lambda: None)


async def test_scores_through_http_and_in_process_agree(service: str, local: PipelineTarget) -> None:
    questions = sampled(read_judged(QUESTIONS), NUM_QUESTIONS, seed=1)
    here = await rank_all(local, questions, top_n=20, seed=1, effort=effort())
    async with http_target(service) as target:
        there = await rank_all(target, questions, top_n=20, seed=1, effort=effort())
    assert [one.before for one in there] == [one.before for one in here]
    for one, other in zip(there, here, strict=True):
        assert one.relevances == pytest.approx(other.relevances, abs=TOLERANCE)
    measures = [report_ranking(found, seed=1).results["measures"] for found in (there, here)]
    for name, values in measures[0].items():
        assert values["after"] == pytest.approx(measures[1][name]["after"], abs=TOLERANCE), name


async def test_answers_through_http_and_in_process_agree(service: str, local: PipelineTarget) -> None:
    questions = sampled(read_judged(QUESTIONS), NUM_QUESTIONS, seed=2)
    contexts = gold_contexts(INDEX, seed=1)
    here = await answer_all(local, questions, contexts, top_n=None, top_k=None, effort=effort())
    async with http_target(service) as target:
        there = await answer_all(target, questions, contexts, top_n=None, top_k=None, effort=effort())
    assert [one.reply.kept for one in there] == [one.reply.kept for one in here]
    figures = [report_answers(found, seed=1).results for found in (there, here)]
    for name in ("EM", "F1"):
        assert figures[0]["answers"][name]["mean"] == pytest.approx(figures[1]["answers"][name]["mean"], abs=TOLERANCE)
    assert figures[0]["abstention"] == figures[1]["abstention"]


def test_demo_checkpoint_passes_the_gate(service: str, tmp_path: Path) -> None:
    options = ["--probe", str(QUESTIONS), "--limit", "30", "--url", service, "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["eval", "gate", *options])
    assert result.exit_code == 0, result.output
    assert "passed: R@5" in result.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["gate"]["reranked"] >= results["gate"]["retrieved"]
    assert results["checkpoint"] == str(CHECKPOINT)


def inverted_probe(path: Path, *, count: int = 10) -> Path:
    """By this one a passage on something else comes first and would be right: who ranks well must fail."""
    corpus = [json.loads(line) for line in (ROOT / "demo" / "corpus.jsonl").read_text().splitlines()]
    by_title = {title: list(rows) for title, rows in groupby(corpus, key=lambda row: row["title"])}
    of_passage = {row["id"]: rows for rows in by_title.values() for row in rows}
    questions = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    judged = [row for row in questions if row["passage_id"] in of_passage][: 2 * count]
    rows = [
        inverted_row(question, of_passage[question["passage_id"]], of_passage[other["passage_id"]][0], corpus)
        for question, other in zip(judged[:count], judged[count:], strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def inverted_row(
    question: dict[str, Any], about: list[dict[str, Any]], other: dict[str, Any], corpus: list[dict[str, Any]]
) -> dict[str, Any]:
    family = [row for row in corpus if row["metadata"] == about[0]["metadata"] and row not in about]
    passages = [other, *(row for row in (*about, *family[:8]) if row["id"] != other["id"])]
    candidates = [
        {"id": row["id"], "title": row["title"], "text": row["text"], "label": int(row is other), "rank": rank}
        for rank, row in enumerate(passages, start=1)
    ]
    return {"id": question["id"], "query": question["question"], "candidates": candidates}


def test_checkpoint_that_ranks_against_the_probe_fails_the_command(service: str, tmp_path: Path) -> None:
    probe = inverted_probe(tmp_path / "inverted.jsonl")
    result = CliRunner().invoke(app, ["eval", "gate", "--probe", str(probe), "--url", service])
    assert result.exit_code == 1, result.output
    assert "failed: R@5 1.000 by the retriever" in result.output


def gate_state(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/readyz").json()["dependencies"]["gate"]
    return found


@pytest.mark.timeout(600)
def test_service_serves_a_failed_checkpoint_without_reranking(
    start_service: Start, redis_settings: Settings, tmp_path: Path
) -> None:
    probe = str(inverted_probe(tmp_path / "inverted.jsonl"))
    url = start_service({**redis_settings, "RANKRAG_GATE__PROBE": probe})  # ready: the verdict is there
    with httpx.Client(base_url=url, timeout=60) as http:
        assert gate_state(http)["ok"] is False
        assert gate_state(http)["detail"].startswith("failed: R@5 1.000 by the retriever")
        answer = http.post("/answer", json={"question": "How high is Mont Blanc?"}).json()
        assert answer["degraded"] == ["rerank_gated"]
        assert [passage["retrieval_rank"] for passage in answer["passages"]] == [1, 2, 3, 4, 5]
        assert answer["answer"]
        refused = http.post("/rerank", json={"query": "q", "documents": ["d"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "rerank_gated")
        metrics = http.get("/metrics").text
    assert 'rankrag_gate{state="failed"} 1.0' in metrics
    assert "rankrag_rerank_on 0.0" in metrics
    overridden = start_service({**redis_settings, "RANKRAG_GATE__PROBE": probe, "RANKRAG_GATE__OVERRIDE": "true"})
    with httpx.Client(base_url=overridden, timeout=60) as http:
        wait_until(lambda: gate_state(http)["detail"].startswith("failed"), within_s=PROBED_WITHIN_S)
        assert "overridden by the operator" in gate_state(http)["detail"]
        assert http.post("/answer", json={"question": "How high is Mont Blanc?"}).json()["degraded"] == []
        assert http.post("/rerank", json={"query": "q", "documents": ["d"]}).status_code == 200


@pytest.mark.timeout(600)
def test_service_reranks_once_the_checkpoint_has_passed(
    start_service: Start, settings: Settings, tmp_path: Path
) -> None:
    probe = tmp_path / "probe.jsonl"
    probe.write_text("".join(QUESTIONS.read_text().splitlines(keepends=True)[:10]))
    url = start_service({**settings, "RANKRAG_GATE__PROBE": str(probe)})
    with httpx.Client(base_url=url, timeout=60) as http:
        assert gate_state(http)["detail"].startswith("passed: R@5")
        assert http.post("/answer", json={"question": "How high is Mont Blanc?"}).json()["degraded"] == []
