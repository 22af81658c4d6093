"""`calibration.json` of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.adapters.calibration_file import NAME, read_calibration, write_calibration
from service.adapters.tokenizer import checkpoint_revision
from service.core.scoring import UNCALIBRATED, Calibration
from service.errors import CheckpointError, ConfigError
from tests.fake_vllm import FakeVllm, fake_replicas

GOOD = {"method": "platt", "slope": 0.5, "intercept": -1.0, "fitted_on": "dev", "num_pairs": 10}


def test_checkpoint_without_the_file_is_not_calibrated(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == UNCALIBRATED


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_calibration(tmp_path, Calibration(0.5, -1.0), fitted_on="dev", num_pairs=10)
    assert json.loads(path.read_text()) == GOOD
    assert read_calibration(tmp_path) == Calibration(0.5, -1.0)


def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be written"):
        write_calibration(tmp_path / "none", Calibration(), fitted_on="dev", num_pairs=1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slope": 0}, "slope: "),
        ({"slope": -1}, "slope: "),
        ({"intercept": "high"}, "intercept: "),
        ({"method": "isotonic"}, "method: "),
        ({"num_pairs": 0}, "num_pairs: "),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    (tmp_path / NAME).write_text(json.dumps({**GOOD, **changed}))
    with pytest.raises(CheckpointError, match=f"{NAME}: {message}"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"slope": NaN}'])
def test_file_that_is_something_else_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(CheckpointError, match=NAME):
        read_calibration(tmp_path)


def test_another_calibration_is_another_revision(tmp_path: Path) -> None:
    before = checkpoint_revision(tmp_path)
    write_calibration(tmp_path, Calibration(0.5, -1.0), fitted_on="dev", num_pairs=10)
    assert checkpoint_revision(tmp_path) != before


async def test_engines_of_all_replicas_have_the_calibration() -> None:
    async with fake_replicas(FakeVllm(), FakeVllm(), calibration=Calibration(0.5, -1.0)) as replicas:
        assert [engine.calibration for engine in replicas.ready().values()] == [Calibration(0.5, -1.0)] * 2
