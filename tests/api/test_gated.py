"""What callers see of a checkpoint that may not rerank."""

from dataclasses import replace

import httpx
from prometheus_client import CollectorRegistry, generate_latest

from service.app import gate_dependency
from service.core.gate import GateStatus, Verdict
from service.errors import RerankGatedError
from service.metrics import Metrics
from tests.fakes import PASSAGES, FakeServices

FAILED = Verdict(num_questions=10, num_retrieved=7, num_reranked=6, num_won=1, num_lost=2)
PASSED = replace(FAILED, num_reranked=9)


async def test_answer_keeps_the_retrievers_order_and_says_why(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = RerankGatedError("may not rerank")
    body = (await client.post("/answer", json={"question": "mont blanc rises"})).json()
    assert body["degraded"] == ["rerank_gated"]
    assert [passage["id"] for passage in body["passages"]] == [passage.id for passage in PASSAGES]
    assert [passage["relevance_score"] for passage in body["passages"]] == [None] * 3
    assert fakes.answers.num_puts == 0
    assert 'rankrag_degraded_total{kind="rerank_gated"} 1.0' in (await client.get("/metrics")).text


async def test_rerank_is_an_error_as_no_score_is_guessed(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = RerankGatedError("may not rerank", retry_after_s=5)
    response = await client.post("/rerank", json={"query": "q", "documents": ["d"]})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "rerank_gated")
    assert response.headers["Retry-After"] == "5"


def test_service_is_unready_until_there_is_a_verdict_only() -> None:
    statuses = [GateStatus(), GateStatus(FAILED), GateStatus(PASSED), GateStatus(is_overridden=True)]
    found = [gate_dependency(status) for status in statuses]
    assert [(dependency.ok, dependency.required) for dependency in found] == [
        (False, True), (False, False), (True, False), (False, False),
    ]  # fmt: skip
    assert [dependency.detail for dependency in found] == [status.text for status in statuses]


def test_metrics_say_what_the_gate_says() -> None:
    metrics = Metrics(CollectorRegistry())
    assert "rankrag_rerank_on 1.0" in generate_latest(metrics.registry).decode()
    metrics.observe_gate(GateStatus())
    assert "rankrag_rerank_on 0.0" in generate_latest(metrics.registry).decode()
    metrics.observe_gate(GateStatus(FAILED))
    text = generate_latest(metrics.registry).decode()
    assert 'rankrag_gate{state="failed"} 1.0' in text
    assert 'rankrag_gate{state="unproven"} 0.0' in text
    assert "rankrag_rerank_on 0.0" in text
    assert 'rankrag_gate_recall{order="reranked"} 0.6' in text
    metrics.observe_gate(GateStatus(FAILED, is_overridden=True))
    assert "rankrag_rerank_on 1.0" in generate_latest(metrics.registry).decode()
