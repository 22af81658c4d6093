"""What callers get when a part dies: never a hang, never an invented score."""

import signal
import time

import httpx
import pytest
from mirakuru import TCPExecutor

from tests.integration.conftest import READY_WITHIN_S, Settings, Start, Vllm, readiness, wait_until

QUESTION = {"question": "How high is Mont Blanc?"}
PAIRS = {"query": "How high is Mont Blanc?", "documents": ["Mont Blanc is high.", "The Rhine is long."]}


def test_redis_down_costs_time_once_and_no_request(client: httpx.Client, redis: TCPExecutor) -> None:
    assert client.post("/answer", json=QUESTION).status_code == 200
    redis.kill()
    durations = []
    for number in range(4):
        begun = time.monotonic()
        response = client.post("/rerank", json={**PAIRS, "query": f"{PAIRS['query']} ({number})"})
        durations.append(time.monotonic() - begun)
        assert response.status_code == 200
    body = client.get("/readyz").json()
    assert body["ready"]
    assert not body["dependencies"]["cache"]["ok"]
    assert min(durations[1:]) <= durations[0] + 0.05
    redis.start()
    wait_until(lambda: client.get("/readyz").json()["dependencies"]["cache"]["ok"], within_s=READY_WITHIN_S)
    client.post("/answer", json=QUESTION)
    wait_until(lambda: client.post("/answer", json=QUESTION).json()["cached"], within_s=READY_WITHIN_S)


@pytest.mark.timeout(420)
def test_a_hung_vllm_is_noticed_and_forgiven(client: httpx.Client, vllm: Vllm) -> None:
    vllm.signal_all(signal.SIGSTOP)
    try:
        wait_until(lambda: readiness(client) == 503, within_s=READY_WITHIN_S)
        begun = time.monotonic()
        response = client.post("/rerank", json={**PAIRS, "cache": False})
        assert time.monotonic() - begun < 1
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_unavailable"
    finally:
        vllm.signal_all(signal.SIGCONT)
    wait_until(lambda: readiness(client) == 200, within_s=30)
    assert client.post("/rerank", json={**PAIRS, "cache": False}).status_code == 200


def test_a_request_that_meets_a_hang_ends_by_its_deadline(start_service: Start, settings: Settings, vllm: Vllm) -> None:
    url = start_service({**settings, "RANKRAG_REQUEST_TIMEOUT_S": "3", "RANKRAG_VLLM__HEALTH_INTERVAL_S": "60"})
    vllm.signal_all(signal.SIGSTOP)
    try:
        for path, body in (("/rerank", {**PAIRS, "cache": False}), ("/answer", {**QUESTION, "cache": False})):
            begun = time.monotonic()
            response = httpx.post(f"{url}{path}", json=body, timeout=30)
            assert time.monotonic() - begun < 4
            assert response.status_code == 504
            assert response.json()["error"]["code"] == "deadline_exceeded"
    finally:
        vllm.signal_all(signal.SIGCONT)


@pytest.mark.timeout(420)
def test_a_killed_vllm_is_an_honest_error_until_it_is_back(client: httpx.Client, vllm: Vllm) -> None:
    vllm.kill()
    wait_until(lambda: readiness(client) == 503, within_s=READY_WITHIN_S)
    engine = client.get("/readyz").json()["dependencies"]["engine"]
    assert not engine["ok"]
    assert engine["detail"]
    for path, body in (("/rerank", {**PAIRS, "cache": False}), ("/answer", {**QUESTION, "cache": False})):
        begun = time.monotonic()
        response = client.post(path, json=body)
        assert time.monotonic() - begun < 2
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_unavailable"
        assert "Retry-After" in response.headers
    assert client.get("/livez").status_code == 200
    vllm.restart()
    wait_until(lambda: readiness(client) == 200, within_s=READY_WITHIN_S)
    assert client.post("/answer", json={**QUESTION, "cache": False}).status_code == 200
