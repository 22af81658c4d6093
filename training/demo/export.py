"""Make a served checkpoint of a training run: `python -m training.demo.export runs/demo models/demo`.

Weights are stored in bfloat16 (half the size; vLLM on CPU computes in float32 from them if told so).
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import get_last_checkpoint

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def export(run: Path, out: Path) -> None:
    """Write the run's final model, or its last checkpoint while it still trains, as vLLM reads it."""
    final = run / "final"
    last = get_last_checkpoint(str(run))  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(final if final.exists() else last, dtype=torch.bfloat16)  # nosec B615
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # saved readable by its owner alone
    for name in TOKENIZER_FILES:
        shutil.copyfile(run / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    export(arguments.run, arguments.out)


if __name__ == "__main__":
    main()
