"""`make demo` and `make serve` as a newcomer runs them: up, asked, down, nothing left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from service.local_stack import HOST, free_port
from tests.integration.conftest import ROOT, Vllm, is_listening, wait_until

START_WITHIN_S = 240
GONE_WITHIN_S = 10  # killed processes take a moment to be reaped


def vllm_pids() -> set[int]:
    """Every vLLM process of this machine."""
    return {
        process.pid
        for process in psutil.process_iter(["cmdline", "name"])
        if "VLLM::" in (process.info["name"] or "") or "vllm.entrypoints" in " ".join(process.info["cmdline"] or [])
    }


@contextmanager
def demo(log: Path, *arguments: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "service", "demo", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PORT": str(port)}, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.timeout(600)
def test_demo_asks_its_questions_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before, port, log = vllm_pids(), free_port(), tmp_path / "demo.log"
    with demo(log, "--once", port=port) as process:
        assert process.wait(START_WITHIN_S) == 0, log.read_text()
    shown = log.read_text()
    assert "expected:" in shown
    assert f"ready at http://{HOST}:{port}" in shown
    wait_until(lambda: vllm_pids() == before, within_s=GONE_WITHIN_S)
    assert not is_listening(port)


@pytest.mark.timeout(600)
def test_serve_stays_up_until_it_is_interrupted(tmp_path: Path) -> None:
    before, port, log = vllm_pids(), free_port(), tmp_path / "serve.log"
    with demo(log, "--no-questions", port=port) as process:
        wait_until(lambda: "ready at" in log.read_text(), within_s=START_WITHIN_S)
        assert httpx.get(f"http://{HOST}:{port}/readyz", timeout=30).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    wait_until(lambda: vllm_pids() == before, within_s=GONE_WITHIN_S)
    assert not is_listening(port)


def test_a_port_in_use_is_named(tmp_path: Path, vllm: Vllm) -> None:
    log = tmp_path / "busy.log"
    with demo(log, "--once", port=vllm.port) as process:
        assert process.wait(60) == 2
    assert "is in use" in log.read_text()
