"""Train one stage of a recipe: `python -m training.train CONFIG [--stage N] [--resume] [--dry-run]`.

On several GPUs: `accelerate launch --config_file training/configs/fsdp-8gpu.yaml -m training.train CONFIG`.
"""

import argparse
import hashlib
import logging
import sys
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTTrainer

from service.errors import ConfigError, RankRAGError
from training import readers
from training.arguments import accumulation, training_arguments
from training.config import Recipe, read_recipe
from training.curves import RunLog
from training.data import open_maker, read_source, training_data
from training.dev import Measure, open_dev
from training.dry_run import dry_run
from training.encoding import ExampleEncoder
from training.models import load_model, load_tokenizer, lora_config, pad_id

log = logging.getLogger(__name__)

FINAL, RECIPE = "final", "recipe.json"


def train(recipe: Recipe, *, resume: bool) -> Path:
    """Train the recipe's current stage; the folder of the final weights.

    Raises:
        ConfigError: the run has checkpoints already and `resume` is false, or something configured is missing.
    """
    last = last_checkpoint(recipe.run)
    if last is not None and not resume:
        raise ConfigError(f"{recipe.run} holds a run already: go on with --resume or choose another output")
    tokenizer = load_tokenizer(recipe.start, recipe.model.revision)
    maker = open_maker(recipe)
    encoder = ExampleEncoder(tokenizer, maker.prompts, recipe.max_length)
    arguments = training_arguments(recipe)
    arguments.gradient_accumulation_steps = accumulation(recipe, arguments.world_size)
    with arguments.main_process_first():  # the others find what it wrote
        data = training_data(recipe, encoder, tokenizer_digest(tokenizer))
        measure = open_measure(recipe, encoder, tokenizer)
    trainer = SFTTrainer(
        model=load_model(recipe.start, recipe.model), args=arguments, processing_class=tokenizer,
        train_dataset=data, eval_dataset=_rows(measure) if measure else None,
        peft_config=lora_config(recipe.lora) if recipe.lora else None, callbacks=[RunLog(recipe.run, measure)],
    )  # fmt: skip
    (recipe.run / RECIPE).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(recipe.run / FINAL))
    return recipe.run / FINAL


def open_measure(recipe: Recipe, encoder: ExampleEncoder, tokenizer: PreTrainedTokenizerFast) -> Measure | None:
    if recipe.dev is None:
        return None
    rows = read_source(recipe.dev.source, recipe.data, readers.read, recipe.mining)
    dev = open_dev(rows, recipe.dev, open_maker(recipe), encoder, recipe.seed)
    return Measure(dev, encoder, pad=pad_id(tokenizer), eos=int(tokenizer.eos_token_id))


def _rows(measure: Measure) -> Dataset:
    return Dataset.from_list([dict(example) for example in measure.dev.examples]).remove_columns("family")


def last_checkpoint(run: Path) -> str | None:
    found: str | None = get_last_checkpoint(str(run)) if run.is_dir() else None  # type: ignore[no-untyped-call]
    return found


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--stage", type=int, choices=(1, 2), help="the stage, instead of the configuration's")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="show the blend and take one step of a tiny model")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    try:
        recipe = read_recipe(arguments.config, arguments.stage)
        if arguments.dry_run:
            dry_run(recipe)
        else:
            print(f"final weights: {train(recipe, resume=arguments.resume)}")
    except RankRAGError as exc:
        sys.exit(exc.message)


if __name__ == "__main__":
    main()
