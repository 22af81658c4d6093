"""What a recipe would do, without its model: the blend, its tokens and costs, and one step of a tiny random model.

A source whose files are not there is stood in for by invented rows of the same format; one that is there gives its
first rows. Mining is by BM25 alone, so that no encoder is needed.
"""

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets import Dataset
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from service.errors import ConfigError
from training import readers, toy
from training.arguments import training_arguments
from training.blend import Blend, Drawn
from training.config import Recipe, Source
from training.cost import Workload, estimate
from training.data import open_blend, read_sources
from training.encoding import Encoded, ExampleEncoder
from training.models import is_local, load_tokenizer, lora_config, small_tokenizer, tiny_model
from training.records import Rows

SAMPLE = 256
_MAX_ROWS = 200
_MAX_CORPUS = 2000
_TOKENIZER_TEXTS = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """Examples as a run would see them; the blend's lines by example."""

    examples: Sequence[Encoded]
    drawn: Drawn

    @property
    def lengths(self) -> list[int]:
        return [len(example["input_ids"]) for example in self.examples]

    def padded_share(self, batch: int, seed: int) -> float:
        """The share of padding where random examples make batches of `batch`."""
        lengths = self.lengths
        random.Random(seed).shuffle(lengths)
        batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
        computed = sum(max(each) * len(each) for each in batches)
        return 1 - sum(lengths) / computed


def dry_run(recipe: Recipe, console: Console | None = None) -> dict[str, float]:
    """Print it all; the tiny model's figures of its one step. Raises ConfigError where the recipe can't work."""
    console = console or Console(width=120)
    with tempfile.TemporaryDirectory(prefix="rankrag-dry-run-") as folder:
        invented = {name for name, source in recipe.sources.items() if readers.missing(source, recipe.data)}
        blend = open_blend(recipe, sampled_sources(recipe, Path(folder)))
        tokenizer, about = open_tokenizer(recipe, blend)
        encoder = ExampleEncoder(tokenizer, blend.maker.prompts, recipe.max_length)
        drawn = Drawn()
        sample = Sample(list(blend.encoded(encoder.encode, SAMPLE, drawn)), drawn)
        console.print(f"[bold]{recipe.start}[/bold], stage {recipe.stage}, tokenizer: {about}")
        console.print(blend_table(blend, sample, invented))
        console.print(describe_sample(recipe, sample, encoder))
        console.print(describe_cost(recipe, sample))
        if invented:
            console.print(f"these lengths are of invented rows where data is absent: {', '.join(sorted(invented))}")
        figures = one_step(recipe, tokenizer, sample, Path(folder) / "step")
    console.print(f"one step of a tiny random {recipe.model.type}: {describe_step(figures)}")
    return figures


def describe_step(figures: Mapping[str, float]) -> str:
    trained = f"{figures['trainable']:,.0f} trained parameters"
    return f"loss {figures['loss']:.3f}, gradient norm {figures['grad_norm']:.3f}, {trained}"


def sampled_sources(recipe: Recipe, folder: Path) -> dict[str, Rows]:
    """The first rows of each source, or invented ones."""
    toy.write(folder)

    def read(source: Source, data: Path) -> Rows:
        if readers.missing(source, data):
            return readers.read(toy.sources()[source.format], folder)
        return first_rows(readers.read(source, data))

    mining = recipe.mining.model_copy(update={"retrievers": ["bm25"], "cache": folder / "mined"})
    return read_sources(recipe, read, mining)


def first_rows(rows: Rows) -> Rows:
    """A few questions, with their passages among a few others."""
    questions, chats = rows.questions[:_MAX_ROWS], rows.chats[:_MAX_ROWS]
    known = {passage.id for question in questions for passage in (*question.relevant, *question.irrelevant)}
    corpus = [p for number, p in enumerate(rows.corpus) if number < _MAX_CORPUS or p.id in known]
    return replace(rows, questions=questions, chats=chats, corpus=tuple(corpus))


def open_tokenizer(recipe: Recipe, blend: Blend) -> tuple[PreTrainedTokenizerFast, str]:
    """The configured one if it is on disk, else one trained on a few examples."""
    for path in (recipe.start, recipe.model.path):
        if is_local(path):
            return load_tokenizer(path), path
    try:
        return load_tokenizer(recipe.model.path, recipe.model.revision, local=True), recipe.model.path
    except ConfigError:
        texts: list[str] = []

        def keep(example: Any) -> Encoded:
            texts.append(example.text + example.completion)
            return Encoded(input_ids=[], completion_mask=[], family=example.family)

        for _ in blend.encoded(keep, _TOKENIZER_TEXTS, Drawn()):
            pass
        return small_tokenizer(texts), "a small one made here, which needs more tokens than the real one"


def blend_table(blend: Blend, sample: Sample, invented: set[str]) -> Table:
    table = Table("line", "family", "source", "rows", "share", "drawn", title=f"the blend, {SAMPLE} examples of it")
    for lane in blend.lanes:
        source = f"{lane.line.source} (invented)" if lane.line.source in invented else lane.line.source
        drawn = sample.drawn.counts.get(lane.name, 0)
        table.add_row(lane.name, lane.line.family, source, f"{lane.size:,}", f"{lane.share:.1%}", f"{drawn}")
    return table


def describe_sample(recipe: Recipe, sample: Sample, encoder: ExampleEncoder) -> str:
    shown = sample.examples[: recipe.per_device_batch]
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in collated(shown).items())
    by_family: dict[str, list[int]] = {}
    for example in sample.examples:
        by_family.setdefault(example["family"], []).append(len(example["input_ids"]))
    longest = max(sample.examples, key=lambda example: len(example["input_ids"]))
    learnt = fmean(sum(example["completion_mask"]) for example in sample.examples)
    lines = [
        f"  {family}: {fmean(lengths):.0f} tokens, longest {max(lengths)}" for family, lengths in by_family.items()
    ]
    text = encoder.decode(longest["input_ids"])
    padded = f"{sample.padded_share(recipe.per_device_batch, recipe.seed):.1%}"
    return "\n".join([
        f"one batch: {shapes}",
        f"tokens of an example: {fmean(sample.lengths):.0f}, {learnt:.1f} of them learnt, padded share {padded}",
        *lines,
        f"too long and left out: {sum(sample.drawn.too_long.values())}",
        f"the longest ({longest['family']}): {text[:160]} […] {text[-160:]}",
    ])  # fmt: skip


def collated(examples: Sequence[Encoded]) -> Mapping[str, Tensor]:
    """A batch as the trainer makes it; labels are -100 but on the answers."""
    rows = [
        {"input_ids": e["input_ids"],
         "labels": [i if m else -100 for i, m in zip(e["input_ids"], e["completion_mask"], strict=True)]}
        for e in examples
    ]  # fmt: skip
    batch: Mapping[str, Tensor] = DataCollatorForLanguageModeling(pad_token_id=0)(rows)
    return batch


def describe_cost(recipe: Recipe, sample: Sample) -> str:
    stage, size, hardware = recipe.current, recipe.model.size, recipe.hardware
    count, mean = stage.steps * stage.batch, fmean(sample.lengths)
    plan = f"{stage.steps:,} steps of {stage.batch}: {count:,} examples"
    if size is None:
        return f"{plan}; for an estimate of the time, give model.size"
    computed = count * mean / (1 - sample.padded_share(recipe.per_device_batch, recipe.seed))
    work = Workload(computed, mean, recipe.lora is not None, recipe.gradient_checkpointing)
    cost = estimate(size, work, hardware)
    low, high = cost.price
    return (
        f"{plan}, {computed / 1e6:,.0f} M tokens with padding, {cost.flops:.2e} operations: "
        f"{cost.device_hours:,.1f} hours of one {hardware.name} at {hardware.utilisation:.0%} of its peak, "
        f"{cost.hours(hardware.count):,.1f} h on {hardware.count}; ${low:,.0f}-{high:,.0f}, if an hour costs "
        f"${hardware.price_per_hour[0]:g}-{hardware.price_per_hour[1]:g} (assumed)"
    )


def one_step(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, sample: Sample, folder: Path) -> dict[str, float]:
    """One optimiser step of one small batch, with the recipe's own optimiser and LoRA, in float32 on any device."""
    arguments = training_arguments(
        recipe, output_dir=str(folder), max_steps=1, warmup_steps=0, bf16=False, eval_strategy="no",
        eval_on_start=False, logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = [dict(example) for example in sample.examples[: max(recipe.per_device_batch, 2) * arguments.world_size]]
    trainer = SFTTrainer(
        model=tiny_model(recipe.model, tokenizer, max_length=recipe.max_length, seed=recipe.seed),
        args=arguments, processing_class=tokenizer, train_dataset=Dataset.from_list(rows).remove_columns("family"),
        peft_config=lora_config(recipe.lora) if recipe.lora else None,
    )  # fmt: skip
    trainer.train()
    logged = next(row for row in trainer.state.log_history if "loss" in row)
    trained = float(trainer.get_num_trainable_parameters())
    return {"loss": float(logged["loss"]), "grad_norm": float(logged["grad_norm"]), "trainable": trained}
