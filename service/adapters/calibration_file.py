"""`calibration.json` beside a checkpoint's weights: how its margins become probabilities.

Hugging Face libraries and vLLM pass over files that they don't know. `checkpoint_revision` digests this one with the
others, so that scores of another calibration are never taken from a cache.
"""

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.core.scoring import UNCALIBRATED, Calibration
from service.errors import CheckpointError, ConfigError

NAME: Final = "calibration.json"


class CalibrationFile(BaseModel):
    """`fitted_on` names the pairs in words, `num_pairs` says how many they were."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    method: Literal["platt"] = "platt"
    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)
    fitted_on: str
    num_pairs: int = Field(ge=1)


def read_calibration(directory: Path) -> Calibration:
    """The checkpoint's calibration; scores stay as they are where it has none.

    Raises:
        CheckpointError: the file is there, but can't be read or would change the order.
    """
    path = directory / NAME
    if not path.is_file():
        return UNCALIBRATED
    try:
        found = CalibrationFile.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise CheckpointError(f"{path} can't be read: {exc.strerror}") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(f"{path}: {field}: {first['msg']}") from exc
    return Calibration(found.slope, found.intercept)


def write_calibration(directory: Path, calibration: Calibration, *, fitted_on: str, num_pairs: int) -> Path:
    """Raises ConfigError where the directory can't be written to."""
    path = directory / NAME
    found = CalibrationFile(
        slope=calibration.slope, intercept=calibration.intercept, fitted_on=fitted_on, num_pairs=num_pairs
    )
    try:
        path.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path} can't be written: {exc.strerror}") from exc
    return path
