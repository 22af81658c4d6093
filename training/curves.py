"""A run's log (`log.jsonl`) and its curves (`curves.png`): `python -m training.curves RUN` draws them again."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

LOG, PICTURE = "log.jsonl", "curves.png"
_LOSSES = ("loss", "eval_loss")
_FIGURES = ("dev_mrr", "dev_accuracy", "dev_exact", "dev_label_mass")


class RunLog(TrainerCallback):
    """Writes a line per log of the trainer and per evaluation; on resuming, lines of later steps are dropped."""

    def __init__(self, run: Path, measure: Callable[[PreTrainedModel], dict[str, float]] | None) -> None:
        self._run, self._measure = run, measure

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._run.mkdir(parents=True, exist_ok=True)
            write_log(self._run, [row for row in read_log(self._run) if row["step"] <= state.global_step])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, float] | None = None, **_: Any,
    ) -> None:  # fmt: skip
        if state.is_world_process_zero and logs:
            self._append(state, logs)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        figures = self._measure(model) if self._measure is not None else {}
        if state.is_world_process_zero:
            self._append(state, figures)
            draw(self._run)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            draw(self._run)

    def _append(self, state: TrainerState, figures: dict[str, float]) -> None:
        with (self._run / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **figures}) + "\n")


def read_log(run: Path) -> list[dict[str, float]]:
    path = run / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_log(run: Path, rows: Sequence[dict[str, float]]) -> None:
    (run / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def draw(run: Path) -> Path:
    """Losses on the left, dev figures on the right, over optimiser steps."""
    rows = read_log(run)
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no display needed
    left, right = figure.subplots(1, 2)
    for axes, names, title in ((left, _LOSSES, "loss on answers"), (right, _FIGURES, "dev figures")):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set(title=title, xlabel="step")
        if axes.lines:
            axes.legend()
    right.set_ylim(0, 1.02)
    figure.savefig(run / PICTURE)
    return run / PICTURE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    print(draw(parser.parse_args().run))


if __name__ == "__main__":
    main()
