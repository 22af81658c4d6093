"""A dry run needs neither the model nor the data, and says what a run would cost."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from training.blend import Drawn
from training.config import read_recipe
from training.dry_run import Sample, dry_run
from training.encoding import Encoded
from training.smoke import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("name", ["llama3-8b-lora", "llama3-8b-full"])
def test_the_8b_configurations_run_dry(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no data here
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = io.StringIO()
    figures = dry_run(read_recipe(CONFIGS / f"{name}.yaml"), Console(file=out, width=160))
    assert math.isfinite(figures["loss"])
    assert figures["grad_norm"] > 0
    text = out.getvalue()
    for part in ("msmarco (invented)", "211,200 examples", "padded share", "hours of one H100 80GB", "(assumed)"):
        assert part in text


def test_the_padded_share_counts_what_is_computed_for_nothing() -> None:
    examples = [Encoded(input_ids=[0] * length, completion_mask=[], family="instruction") for length in (10, 10, 5, 5)]
    sample = Sample(examples, Drawn())
    assert sample.padded_share(1, seed=0) == 0.0
    assert sample.padded_share(4, seed=3) == pytest.approx(1 - 30 / 40)
