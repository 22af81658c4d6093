"""The services of the bench and of early exit's measure start: what they are told fits together."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

from loadtest.bench_scoring import DEMO_CHECKPOINT, INDEX, SCENARIOS, Name
from loadtest.eval_early_exit import service_settings
from loadtest.stack import service_environment
from service.core.early_exit import EarlyExit
from service.settings import Settings
from service.start_checks import mistakes_in

ALL = {name: settings for name, (_, settings) in SCENARIOS.items()} | {
    f"early exit {mode}": service_settings(mode, Path(INDEX)) for mode in get_args(EarlyExit)
}


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL.keys())
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
