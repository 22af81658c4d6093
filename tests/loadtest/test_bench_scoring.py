"""The bench's services start: what they are told fits together."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from loadtest.bench_scoring import DEMO_CHECKPOINT, SCENARIOS, Name
from loadtest.stack import service_environment
from service.settings import Settings
from service.start_checks import mistakes_in


@pytest.mark.parametrize("settings", [pytest.param(settings, id=name) for name, (_, settings) in SCENARIOS.items()])
def test_a_service_would_start_with_these_settings(
    settings: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in service_environment(DEMO_CHECKPOINT, ["http://127.0.0.1:1"], settings).items():
        monkeypatch.setenv(name, value)
    if not Path("build/demo-index").exists():  # `make check` alone builds none
        monkeypatch.delenv("RANKRAG_INDEX__PATH", raising=False)
    assert mistakes_in(Settings()) == []


def test_every_scenario_but_that_of_two_replicas_has_settings() -> None:
    assert set(SCENARIOS) == set(Name) - {Name.REPLICAS}
