"""From a recipe's sources to what the trainer reads, kept in the run's folder so that a run that goes on finds it."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import datasets
from datasets import Dataset
from tqdm import tqdm

from service.adapters.prompt_files import read_prompts
from service.errors import ConfigError
from training import readers
from training.blend import FILE, Blend, Drawn, open_lanes, read_blend
from training.config import Mining, Recipe, Source
from training.encoding import Encoded, ExampleEncoder
from training.examples import ExampleMaker
from training.mining import with_negatives
from training.records import Rows
from training.templates import FILE as TEMPLATES
from training.templates import read_templates

log = logging.getLogger(__name__)

DRAWN = "drawn.json"
_FORMAT = 1


def open_maker(recipe: Recipe) -> ExampleMaker:
    prompts = read_prompts(recipe.prompts).prompts
    return ExampleMaker(prompts, read_templates(), recipe.positive_share, recipe.abstention_share)


def read_sources(
    recipe: Recipe, prepare: Callable[[Source, Path], Rows] | None = None, mining: Mining | None = None
) -> dict[str, Rows]:
    """The sources that the current stage's blend names, with negatives. `prepare` reads one in another way.

    Raises:
        ConfigError: the recipe has a source that no line of the blend names: a slip in one of both names.
    """
    named = {line.source for line in read_blend(recipe.blend, 2).values()}
    for name in recipe.sources:
        if name not in named:
            raise ConfigError(f"sources.{name}: no line of the blend has this source", field=f"sources.{name}")
    wanted = {line.source for line in read_blend(recipe.blend, recipe.stage).values()}
    return {
        name: read_source(source, recipe.data, prepare or readers.read, mining or recipe.mining)
        for name, source in recipe.sources.items()
        if name in wanted
    }


def read_source(source: Source, data: Path, read: Callable[[Source, Path], Rows], mining: Mining) -> Rows:
    rows = read(source, data)
    return with_negatives(rows, mining) if getattr(source, "mine", False) else rows


def open_blend(recipe: Recipe, sources: Mapping[str, Rows]) -> Blend:
    lanes = open_lanes(read_blend(recipe.blend, recipe.stage), sources)
    return Blend(lanes, open_maker(recipe), recipe.seed)


def training_data(recipe: Recipe, encoder: ExampleEncoder, tokenizer_digest: str) -> Dataset:
    """All examples of the stage, `steps` times `batch`, as `input_ids` and `completion_mask`.

    Raises:
        ConfigError, CorpusError: a source or the blend is wrong.
    """
    folder = recipe.run / f"blend-{blend_digest(recipe, tokenizer_digest)}"
    if not folder.exists():
        _write(folder, recipe, encoder)
    return datasets.load_from_disk(str(folder)).select_columns(["input_ids", "completion_mask"])


def _write(folder: Path, recipe: Recipe, encoder: ExampleEncoder) -> None:
    count = recipe.current.steps * recipe.current.batch
    blend, drawn = open_blend(recipe, read_sources(recipe)), Drawn()

    def rows() -> Iterator[Encoded]:
        yield from tqdm(blend.encoded(encoder.encode, count, drawn), total=count, desc="blend", disable=None)

    fresh = folder.with_name(f".{folder.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    made = Dataset.from_generator(rows, cache_dir=str(fresh / "cache"), fingerprint=folder.name)
    made.save_to_disk(str(fresh / "rows"))
    (fresh / "rows" / DRAWN).write_text(json.dumps(asdict(drawn), indent=2) + "\n", encoding="utf-8")
    (fresh / "rows").rename(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    for name, lost in drawn.too_long.items():
        log.warning("%s: %d rows were longer than max_length and left out", name, lost)


def blend_digest(recipe: Recipe, tokenizer_digest: str) -> str:
    """Equal ones mean equal examples: settings, prompts, templates, and size and time of every source file."""
    settings = recipe.model_dump(
        mode="json",
        include={"stage", "sources", "data", "seed", "max_length", "positive_share", "abstention_share", "mining"},
    )
    texts = [(recipe.blend or FILE).read_text("utf-8"), TEMPLATES.read_text("utf-8")]
    named = [path for source in recipe.sources.values() for path in readers.paths(source, recipe.data)]
    files = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stats = [file.stat() for file in files if file.is_file()]
    parts = [
        _FORMAT, settings, texts, read_prompts(recipe.prompts).digest, tokenizer_digest,
        recipe.current.steps * recipe.current.batch, [(stat.st_size, stat.st_mtime_ns) for stat in stats],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
