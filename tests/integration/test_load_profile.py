"""`make load` against a running service: requests, a verdict and a report."""

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.conftest import ROOT


def load(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.load", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_smoke_profile_passes_and_leaves_its_report(service: str, tmp_path: Path) -> None:
    ended = load("smoke", "--url", service, "--out", str(tmp_path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads((tmp_path / "smoke.json").read_text())
    assert figures["measures"]["requests"] > 5
    assert figures["measures"]["ttft_p50_s"] > 0
    assert figures["measures"]["answer_hit_share"] >= 0
    assert {"rss_bytes", "fds", "tasks"} <= figures["samples"][0].keys()
    assert all(verdict["is_passed"] for verdict in figures["verdicts"])
    assert "data:image/png;base64," in (tmp_path / "smoke.html").read_text()


def test_a_missed_threshold_is_exit_code_1(service: str, tmp_path: Path) -> None:
    """Nobody answers a path that isn't there."""
    own = tmp_path / "own.py"
    own.write_text(
        "from locust import task\nfrom loadtest.open_loop import Arrival, OpenLoopUser\n\n"
        "class Own(OpenLoopUser):\n    @task\n    def lost(self, arrival: Arrival) -> None:\n"
        "        self.client.post('/nowhere', json={})\n"
    )
    arguments = ("--url", service, "--out", str(tmp_path), "--locustfile", str(own), "--scale", "0.2")
    assert load("smoke", *arguments).returncode == 1


def test_nobody_there_is_exit_code_2(tmp_path: Path) -> None:
    ended = load("smoke", "--url", "http://127.0.0.1:1", "--out", str(tmp_path))
    assert ended.returncode == 2
    assert "can't be asked" in ended.stdout
