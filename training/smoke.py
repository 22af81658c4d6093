"""Run every stage of the recipe on invented data: `python -m training.smoke [FOLDER]`, or `make train-smoke`.

Stage I and stage II with all weights, stage II with LoRA, mining, dev evaluation, export and reloading, and the dry
runs of both 8B configurations. It shows that the parts fit together; the tiny random model learns nothing.
"""

import argparse
import logging
import shutil
import time
from pathlib import Path

import torch

from service.adapters.prompt_files import read_prompts
from training import toy
from training.config import Lora, Recipe, read_recipe
from training.curves import PICTURE, read_log
from training.dry_run import dry_run
from training.export import export
from training.models import small_tokenizer, tiny_model
from training.train import train

CONFIGS = Path(__file__).with_name("configs")
FOLDER = Path("build/train-smoke")


def smoke_recipe(folder: Path, stage: int) -> Recipe:
    """`smoke.yaml` with everything inside `folder`."""
    recipe = read_recipe(CONFIGS / "smoke.yaml", stage)
    start = folder / "stage-1-model"
    return recipe.model_copy(update={
        "model": recipe.model.model_copy(update={"path": str(folder / "base")}),
        "stages": recipe.stages | {2: recipe.stages[2].model_copy(update={"start": str(start)})},
        "data": folder / "data",
        "mining": recipe.mining.model_copy(update={"cache": folder / "mined"}),
        "output": folder / "full",
    })  # fmt: skip


def make_base(recipe: Recipe) -> None:
    """A tiny random Llama with its tokenizer, where the recipe expects its model."""
    tokenizer = small_tokenizer(toy.texts(read_prompts(recipe.prompts).prompts.system))
    tiny_model(recipe.model, tokenizer, max_length=recipe.max_length, seed=recipe.seed).save_pretrained(
        recipe.model.path
    )
    tokenizer.save_pretrained(recipe.model.path)


def run_stages(folder: Path) -> None:
    toy.write(folder / "data")
    first, second = smoke_recipe(folder, 1), smoke_recipe(folder, 2)
    with_lora = second.model_copy(update={"lora": Lora(rank=4, alpha=8), "output": folder / "lora"})
    make_base(first)
    for recipe, out in ((first, "stage-1-model"), (second, "full-model"), (with_lora, "lora-model")):
        train(recipe, resume=False)
        difference = export(recipe.run, folder / out)
        last = read_log(recipe.run)[-1]
        print(f"{recipe.run}: {last}, {recipe.run / PICTURE}, exported to {folder / out} (P(True) ±{difference:.5f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    folder: Path = parser.parse_args().folder
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # tiny models on a busy machine: threads would wait for each other
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    run_stages(folder)
    for name in ("llama3-8b-lora", "llama3-8b-full"):
        for stage in (1, 2):
            dry_run(read_recipe(CONFIGS / f"{name}.yaml", stage))
    print(f"every stage ran, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
