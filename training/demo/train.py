"""Train the demo checkpoint: `python -m training.demo.train training/demo/demo-cpu.yaml --out runs/demo`.

Stops and goes on: run the same command again and it resumes from the last checkpoint in `--out`.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer
from torch.nn import functional
from torch.utils.data import IterableDataset, get_worker_info
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from service.core.prompts import PromptSet, parse_prompt_set
from training.demo.examples import PublicText, Stage, TreeMaker, training_texts
from training.demo.packing import ANSWER, CONTEXT, IGNORED, PUBLIC_ANSWER, PUBLIC_SCORE, SCORE, Packer
from training.demo.tokenizer import save_tokenizer, train_tokenizer
from training.demo.warm_start import NUM_COPY_LAYERS, Pointing, make_model
from training.demo.world import World, demo_titles

NUM_FIT_TEXTS = 600
IDENTITY_SHARE = 0.1
KINDS = {
    "answer": ANSWER, "score": SCORE,
    "public_answer": PUBLIC_ANSWER, "public_score": PUBLIC_SCORE,
}  # fmt: skip


def _shared_number() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call, no-any-return]


@dataclass
class Curriculum:
    """Where the training stands: moves on when both tasks are learnt on invented text.

    `exact` is the share of answers of which every token is the likeliest one, `right` that of right verdicts.
    """

    stages: list[Stage]
    exact: float
    right: float
    min_steps: int
    max_steps: int
    step: int = 0
    entered_at: int = 0
    seen: dict[str, float] = field(default_factory=dict)
    place: torch.Tensor = field(default_factory=_shared_number)

    @property
    def current(self) -> int:
        """The stage's number; loader processes, which hold copies of all else, see it change."""
        return int(self.place[0])

    @current.setter
    def current(self, number: int) -> None:
        self.place[0] = number

    @property
    def stage(self) -> Stage:
        return self.stages[self.current]

    def observe(self, figures: dict[str, float]) -> None:
        """Keep a moving average of each figure."""
        for name, figure in figures.items():
            self.seen[name] = 0.95 * self.seen.get(name, figure) + 0.05 * figure

    def advance(self, step: int) -> bool:
        self.step = step
        taken = step - self.entered_at
        if self.current == len(self.stages) - 1 or taken < self.min_steps:
            return False
        learnt = self.seen.get("exact", 0.0) >= self.exact and self.seen.get("right", 1.0) >= self.right
        if not learnt and taken < self.max_steps:
            return False
        self.current, self.entered_at, self.seen = self.current + 1, step, {}
        return True


class PackedTrees(IterableDataset[dict[str, Any]]):
    """An endless, seeded stream of packed sequences at the curriculum's current stage."""

    def __init__(self, maker: TreeMaker, curriculum: Curriculum, *, seed: int) -> None:
        self.maker, self.curriculum = maker, curriculum
        self.rng = random.Random(seed)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is not None:
            self.rng.seed(f"{self.rng.random()} {worker.id}")
        while True:
            yield self._sequence()

    def _sequence(self) -> dict[str, Any]:
        stage = self.curriculum.stage
        maker = self.maker.at(stage)
        packer = Packer(maker.root(), stage.length)
        weights, misses = stage.weights, 0
        while misses < 4:
            kind = self.rng.choices(list(weights), list(weights.values()))[0]
            for tree in maker.make(kind, stage, self.rng):
                if packer.has_room(tree):
                    packer.add(tree)
                else:  # fill up with small trees, so that large ones stay as frequent as they should be
                    misses += 1
                    weights = {kind: weight for kind, weight in stage.weights.items() if "score" in kind} or weights
        return packer.arrays()


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
    batch["attention_mask"] = batch["attention_mask"][:, None]
    return batch


class TreeTrainer(Trainer):
    """A Trainer whose loss is taken where the packed targets are."""

    def __init__(self, *args: Any, curriculum: Curriculum, weights: dict[str, float], rates: dict[str, float],
                 pointing: Pointing, **kwargs: Any) -> None:  # fmt: skip
        super().__init__(*args, **kwargs)
        self.curriculum, self.weights, self.rates, self.pointing = curriculum, weights, rates, pointing

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW without decay of norms; each part of the model at its share of the learning rate."""
        groups = [
            {"params": chosen, "weight_decay": decay, "lr": self.args.learning_rate * self.rates[part]}
            for part, parameters in parts_of(model or self.model).items()
            for decay, chosen in (
                (self.args.weight_decay, [p for p in parameters if p.ndim > 1]),
                (0.0, [p for p in parameters if p.ndim == 1]),
            )
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(self.args.adam_beta1, self.args.adam_beta2))
        return self.optimizer

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:  # fmt: skip
        kinds, ids = inputs["kinds"], inputs["input_ids"]
        hidden = model.model(
            input_ids=ids, position_ids=inputs["position_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state
        wanted = (kinds != IGNORED) & (kinds != CONTEXT)
        rows, columns = wanted.nonzero(as_tuple=True)
        logits = model.lm_head(hidden[rows, inputs["sources"][rows, columns]])
        targets, kind = ids[rows, columns], kinds[rows, columns]
        losses = functional.cross_entropy(logits, targets, reduction="none")
        parts = {name: losses[kind == code].mean() for name, code in KINDS.items() if (kind == code).any()}
        starts = kinds[rows, columns - 1] != kind
        answers = {"exact": kind == ANSWER, "public_exact": kind == PUBLIC_ANSWER}
        is_first = starts & (answers["exact"] | answers["public_exact"])
        if is_first.any():
            parts["first"] = losses[is_first].mean()
        parts["identity"] = self._identity(model, ids, kinds)
        pointing, pointed = self.pointing.losses(inputs["pointing"], inputs["roles"], inputs["spots"])
        parts |= pointing
        figures = {name: float(part.detach()) for name, part in parts.items()} | {"pointed": pointed}
        is_right = logits.argmax(-1) == targets
        figures |= {
            name: exactly_right(is_right[own], starts[own]) for name, own in answers.items() if own.any()
        }  # fmt: skip
        verdicts = {"right": kind == SCORE, "public_right": kind == PUBLIC_SCORE}
        figures |= {name: float(is_right[own].float().mean()) for name, own in verdicts.items() if own.any()}
        self.curriculum.observe(figures)
        return sum(self.weights[name] * part for name, part in parts.items())

    def _identity(self, model: Any, ids: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """How well a sample of the context's tokens is still known where it would be copied."""
        chosen = (kinds == CONTEXT) & (torch.rand(kinds.shape, device=kinds.device) < IDENTITY_SHARE)
        row, column = chosen.nonzero(as_tuple=True)
        return functional.cross_entropy(model.lm_head(self.pointing.said(row, column)), ids[row, column])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        state = self.curriculum
        seen = {name: round(figure, 4) for name, figure in state.seen.items()}
        super().log({**logs, "stage": state.current, **seen}, *args, **kwargs)


def parts_of(model: Any) -> dict[str, list[torch.nn.Parameter]]:
    """The parameters by where they come from: `embeddings`, the `encoder`'s layers, and what is `new`."""
    decoder = model.model.decoder
    embeddings = [*decoder.embed_tokens.parameters(), *decoder.embed_positions.parameters()]
    encoder = [p for layer in decoder.layers[1:-NUM_COPY_LAYERS] for p in layer.parameters()]
    known = {id(p) for p in (*embeddings, *encoder)}
    return {
        "embeddings": embeddings, "encoder": encoder, "new": [p for p in model.parameters() if id(p) not in known]
    }  # fmt: skip


def exactly_right(is_right: torch.Tensor, starts: torch.Tensor) -> float:
    """The share of answers all of whose tokens are right; `starts` marks the first token of each."""
    answer = starts.long().cumsum(0) - 1
    wrong = torch.zeros(int(answer[-1]) + 1, device=answer.device).index_add_(0, answer, (~is_right).float())
    return float((wrong == 0).float().mean())


class CurriculumCallback(TrainerCallback):
    """Advances the curriculum and keeps its place beside each checkpoint."""

    def __init__(self, curriculum: Curriculum, rng: random.Random) -> None:
        self.curriculum, self.rng = curriculum, rng

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if self.curriculum.advance(state.global_step):
            print(json.dumps({"step": state.global_step, "stage": self.curriculum.current}), flush=True)

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        names = ("step", "current", "entered_at", "seen")
        place = {name: getattr(self.curriculum, name) for name in names}
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / "curriculum.json"
        path.write_text(json.dumps(place))

    def restore(self, checkpoint: Path) -> None:
        for key, value in json.loads((checkpoint / "curriculum.json").read_text()).items():
            setattr(self.curriculum, key, value)
        self.rng.seed(f"{checkpoint.name}")


def load_prompts(name: str) -> PromptSet:
    text = resources.files("service.prompts").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse_prompt_set(yaml.safe_load(text))


def open_maker(config: dict[str, Any], out: Path) -> TreeMaker:
    """The world, the public text if the config names any, and the tokenizer (trained on first use)."""
    prompts = load_prompts(config["prompts"])
    world = World.load(reserved=demo_titles())
    data = config.get("public_text")
    public = PublicText.load(Path(data["passages"]), Path(data["questions"]), out) if data else None
    if public is not None:
        world = replace(world, names=world.names.with_found(public.names(), config["found_names"]))
    path = out / "tokenizer.json"
    if not path.exists():
        texts = training_texts(world, public, random.Random(config["seed"]), num_documents=20_000)
        save_tokenizer(train_tokenizer(texts, prompts, vocab_size=config["model"]["vocab_size"]), out)
    return TreeMaker(world, public, prompts, Tokenizer.from_file(str(path)))


def training_arguments(config: dict[str, Any], out: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out), seed=config["seed"], remove_unused_columns=False, use_cpu=config["device"] == "cpu",
        ignore_data_skip=True, report_to=[], logging_first_step=True, disable_tqdm=False,
        adam_beta2=0.98, save_total_limit=2, logging_nan_inf_filter=False, **config["trainer"],
    )  # fmt: skip


def train(config: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)  # denormal numbers are slow on CPUs
    torch.set_num_threads(config["threads"])
    maker = open_maker(config, out)
    last = get_last_checkpoint(str(out))  # type: ignore[no-untyped-call]
    texts = list(
        islice(
            training_texts(maker.world, maker.public, random.Random(config["seed"]), num_documents=400), NUM_FIT_TEXTS
        )
    )
    model = make_model(maker.tokenizer, texts, max_length=config["model"]["max_length"], seed=config["seed"])
    print(f"{model.num_parameters() / 1e6:.2f} M parameters", flush=True)
    stages = [Stage(**{**stage, "passages": tuple(stage["passages"])}) for stage in config["stages"]]
    curriculum = Curriculum(stages, **config["curriculum"])
    data = PackedTrees(maker, curriculum, seed=config["seed"])
    callback = CurriculumCallback(curriculum, data.rng)
    trainer = TreeTrainer(
        model=model, args=training_arguments(config, out), train_dataset=data, data_collator=collate,
        callbacks=[callback], curriculum=curriculum, weights=config["loss"], rates=config["rates"],
        pointing=Pointing(model),
    )  # fmt: skip
    if last is not None:
        callback.restore(Path(last))
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(out / "final"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    train(yaml.safe_load(arguments.config.read_text()), arguments.out)


if __name__ == "__main__":
    main()
