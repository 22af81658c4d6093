"""Is it alive, can it be asked, and the metrics."""

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.api.services import Dependency
from service.metrics import Metrics
from tests.fakes import FakeServices


async def test_process_is_alive_whatever_it_needs(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.engine = Dependency(False, "vLLM can't be reached")
    response = await client.get("/livez")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


async def test_ready_names_every_dependency(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")
    body = response.json()
    assert (response.status_code, body["ready"]) == (200, True)
    assert set(body["dependencies"]) == {"engine", "index", "cache"}
    assert body["dependencies"]["engine"] == {"ok": True, "required": True, "detail": "serving fake"}


async def test_not_ready_says_why(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.engine = Dependency(False, "vLLM can't be reached")
    response = await client.get("/readyz")
    assert (response.status_code, response.json()["ready"]) == (503, False)
    assert response.json()["dependencies"]["engine"]["detail"] == "vLLM can't be reached"


async def test_readiness_comes_back_with_the_engine(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    up, fakes.engine = fakes.engine, Dependency(False, "down")
    assert (await client.get("/readyz")).status_code == 503
    fakes.engine = up
    assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("what", ["cache", "index"])
async def test_what_is_not_required_may_be_missing(client: httpx.AsyncClient, fakes: FakeServices, what: str) -> None:
    if what == "cache":
        fakes.cache = Dependency(False, "redis: not reachable", required=False)
    else:
        fakes.has_index = False
    response = await client.get("/readyz")
    assert (response.status_code, response.json()["ready"]) == (200, True)
    assert response.json()["dependencies"][what]["ok"] is False


def families(text: str) -> set[str]:
    return {family.name for family in text_string_to_metric_families(text)}


async def test_metrics_hold_every_series(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    registered = {family.name for family in Metrics(CollectorRegistry()).registry.collect()}
    assert registered <= families(response.text)
    assert all(name.startswith(("rankrag_", "process_")) for name in registered)


async def test_answers_are_measured_by_outcome_stage_and_tokens(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.generator.is_context_cut = True
    await client.post("/answer", json={"question": "mont blanc"})
    fakes.index.stored = ()
    await client.post("/answer", json={"question": "nothing"})
    metrics = (await client.get("/metrics")).text
    for line in (
        'rankrag_answers_total{outcome="answered"} 1.0',
        'rankrag_answers_total{outcome="abstained"} 1.0',
        'rankrag_degraded_total{kind="context_truncated"} 1.0',
        'rankrag_stage_seconds_count{stage="encode"} 2.0',
        'rankrag_stage_seconds_count{stage="generate"} 1.0',
        'rankrag_stage_seconds_count{stage="total"} 2.0',
        'rankrag_tokens_total{direction="completion"} 2.0',
        'rankrag_pairs_total{source="engine"} 3.0',
    ):
        assert line in metrics


async def test_metrics_never_hold_what_was_asked(client: httpx.AsyncClient) -> None:
    await client.post("/answer", json={"question": "swordfish", "filters": {"swordfish": "swordfish"}})
    assert "swordfish" not in (await client.get("/metrics")).text
