"""Keys, rates and the admin port of the real process, with the real Redis."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from mirakuru import TCPExecutor

from service.local_stack import HOST, free_port, running, service_process
from tests.api.keys import KEYS, auth, bearer
from tests.integration.conftest import READY_WITHIN_S, Settings, wait_until

PAIRS = {"query": "How high is Mont Blanc?", "documents": ["Mont Blanc is high.", "The Rhine is long."]}


@contextmanager
def guarded(settings: Settings, directory: Path, **more: str) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A service with keys, as it runs in production: clients of its main port and of its admin port."""
    directory.mkdir()
    port, admin_port, log = free_port(), free_port(), directory / "service.log"
    environment = {
        **settings,
        "RANKRAG_AUTH__MODE": "keys",
        "RANKRAG_AUTH__KEY_FILE": str(auth(directory).key_file),
        "RANKRAG_AUTH__RELOAD_INTERVAL_S": "0.1",
        "RANKRAG_ADMIN__PORT": str(admin_port),
        **more,
    }
    process = service_process(port, environment, log)
    with (
        running(process, "the service", log),
        httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30) as main,
        httpx.Client(base_url=f"http://{HOST}:{admin_port}", timeout=30) as admin,
    ):
        yield main, admin
    assert not [key for key in KEYS.values() if key in log.read_text()]


@pytest.mark.threat("T21")
@pytest.mark.threat("T06")
def test_keys_are_asked_for_and_metrics_are_elsewhere(settings: Settings, tmp_path: Path) -> None:
    with guarded(settings, tmp_path / "one") as (main, admin):
        assert main.post("/rerank", json=PAIRS).status_code == 401
        assert main.post("/rerank", json=PAIRS, headers=bearer("answer")).status_code == 403
        assert main.post("/rerank", json=PAIRS, headers=bearer("rerank")).status_code == 200
        assert main.get("/metrics", headers=bearer("admin")).status_code == 404
        assert 'rankrag_errors_total{code="unauthenticated"} 1.0' in admin.get("/metrics").text
        assert main.get("/readyz").json()["dependencies"]["engine"]["detail"] == ""
        assert admin.get("/readyz").json()["dependencies"]["engine"]["detail"].startswith("serving ")
        (tmp_path / "one" / "keys.yaml").write_text("[]")
        refused = 'rankrag_key_reloads_total{result="refused"} 1.0'
        wait_until(lambda: refused in admin.get("/metrics").text, within_s=READY_WITHIN_S)
        assert main.post("/rerank", json=PAIRS, headers=bearer("rerank")).status_code == 200


@pytest.mark.threat("T07")
def test_replicas_count_a_caller_together_and_each_alone_without_redis(settings: Settings, tmp_path: Path) -> None:
    redis_port = free_port()
    shared = {"RANKRAG_REDIS_URL": f"redis://{HOST}:{redis_port}/0", "RANKRAG_RATE_LIMIT__REQUESTS": "4/hour"}
    command = f"redis-server --port {redis_port} --bind {HOST} --save '' --appendonly no --dir {tmp_path}"
    redis = TCPExecutor(command, HOST, redis_port, timeout=20, stdout=subprocess.DEVNULL)
    redis.start()
    with (
        guarded(settings, tmp_path / "one", **shared) as (one, admin),
        guarded(settings, tmp_path / "two", **shared) as (two, _),
    ):

        def statuses(count: int) -> list[int]:
            asked = (one, two) * count
            return [main.post("/rerank", json=PAIRS, headers=bearer("rerank")).status_code for main in asked]

        assert statuses(3) == [200] * 4 + [429] * 2
        redis.kill()
        assert statuses(3) == [200] * 6
        assert "rankrag_rate_limit_failures_total 1.0" in admin.get("/metrics").text
