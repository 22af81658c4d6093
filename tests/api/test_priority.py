"""Who goes first, and what is refused when the engine has too much to do."""

from typing import Any

import httpx
import pytest

from service.errors import EngineError, OverloadedError
from service.types import Priority
from tests.fakes import FakeServices

ANSWER: dict[str, Any] = {"question": "mont blanc rises"}
RERANK: dict[str, Any] = {"query": "mont blanc rises", "documents": ["The Rhine is a river.", "Mont Blanc rises."]}
ASKED = [("/answer", ANSWER), ("/rerank", RERANK)]
FULL = OverloadedError("too many pairs wait", retry_after_s=7)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/answer", ANSWER, Priority.ANSWER),
        ("/answer", {**ANSWER, "priority": "interactive"}, Priority.ANSWER),
        ("/answer", {**ANSWER, "priority": "bulk"}, Priority.BULK),
        ("/rerank", RERANK, Priority.INTERACTIVE),
        ("/rerank", {**RERANK, "priority": "interactive"}, Priority.INTERACTIVE),
        ("/rerank", {**RERANK, "priority": "bulk"}, Priority.BULK),
        ("/rerank", {**RERANK, "priority": -3}, Priority.INTERACTIVE),
        ("/rerank", {**RERANK, "priority": 0}, Priority.INTERACTIVE),
        ("/rerank", {**RERANK, "priority": 1}, Priority.BULK),
    ],
)
async def test_request_says_who_goes_first(
    client: httpx.AsyncClient, fakes: FakeServices, path: str, body: Any, expected: Priority
) -> None:
    assert (await client.post(path, json=body)).status_code == 200
    assert fakes.scorer.priorities == [expected]


@pytest.mark.parametrize(
    ("path", "body", "priority"),
    [
        *((path, body, priority) for path, body in ASKED for priority in ("", "urgent", "BULK", True, 1.5)),
        ("/answer", ANSWER, None),  # to rerank clients null is as good as absent
    ],
)
async def test_other_priorities_are_refused_by_name(
    client: httpx.AsyncClient, path: str, body: Any, priority: Any
) -> None:
    response = await client.post(path, json={**body, "priority": priority})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "priority")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.threat("T11")
async def test_answer_is_refused_before_any_work(
    client: httpx.AsyncClient, fakes: FakeServices, is_stream: bool
) -> None:
    fakes.scorer.refusal = FULL
    response = await client.post("/answer", json={**ANSWER, "top_n": 2, "stream": is_stream})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
    assert response.headers["Retry-After"] == "7"
    assert response.headers["Content-Type"] == "application/json"
    assert [num_pairs for num_pairs, _, _ in fakes.scorer.admitted] == [2]
    assert (fakes.encoder.calls, fakes.scorer.calls) == ([], [])
    metrics = (await client.get("/metrics")).text
    assert 'rankrag_errors_total{code="overloaded"} 1.0' in metrics
    assert 'rankrag_requests_total{route="/answer",status="429"} 1.0' in metrics


@pytest.mark.parametrize("refusal", [FULL, EngineError("gone")])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_known_answer_is_given_when_nothing_else_is(
    client: httpx.AsyncClient, fakes: FakeServices, is_stream: bool, refusal: Exception
) -> None:
    await client.post("/answer", json=ANSWER)
    fakes.scorer.refusal = refusal
    response = await client.post("/answer", json={**ANSWER, "stream": is_stream})
    assert response.status_code == 200
    assert '"cached":true' in response.text.replace(" ", "")


@pytest.mark.threat("T11")
async def test_reranking_that_is_refused_says_when_to_come_back(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = FULL
    response = await client.post("/rerank", json=RERANK)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")


async def test_answer_whose_scoring_is_refused_late_is_degraded(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = FULL
    response = await client.post("/answer", json=ANSWER)
    assert (response.status_code, response.json()["degraded"]) == (200, ["rerank_skipped"])
