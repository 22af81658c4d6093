"""What early exit saves and what it costs, through `POST /answer`; and how its constants were fitted.

`corpus` writes the passages that `rankrag index build` makes the index of. `measure` asks the same questions with
each setting, over one vLLM. `fit` takes questions of data/train, scores all of their passages, and prints the
constants of `service/core/early_exit.py` and what they do there for several `max_left`.
"""

import asyncio
import json
import os
import random
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any, Literal, TypeAlias

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from loadtest.corpus import ROOT, read_rows
from loadtest.measures import Result, Table, Verdict
from loadtest.report import show_table, show_verdicts, write_json
from loadtest.stack import LONG_DEADLINE, VllmOptions, end_on_sigterm, machine, service_running, vllm_running
from loadtest.wire import VllmAdmin
from service.core.early_exit import ODDS_EXPONENT, RANK_EXPONENT, RANK_OFFSET, EarlyExit, ExitRule, exit_rule
from service.core.ranking import is_part_of, order_by_relevance
from service.errors import ConfigError, EngineError, RankRAGError
from service.types import Score

Part: TypeAlias = Literal["dev", "train"]

MODES: tuple[EarlyExit, ...] = ("off", "on", "aggressive")
DATA = Path(os.environ.get("RANKRAG_DATA", ROOT.parent / "shared" / "data"))
INSTEAD = "give --data, or set RANKRAG_DATA"
DEADLINE_S = 300.0
TOP_K = 5
MAX_SHARE = 0.6
MAX_LOSS = 0.005

# What data/dev is made of, and its relatives: questions on a paragraph.
TRAIN_SOURCES = frozenset({"squad-train", "squadshifts-new_wiki", "squadshifts-amazon"})

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=None if sys.stdout.isatty() else 130)


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the document that its answer is in."""

    text: str
    gold: str


@dataclass(frozen=True, slots=True)
class Found:
    """One of the kept passages."""

    rank: int
    retrieval_rank: int
    relevance: float | None
    is_gold: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question: kept passages, best first, and pairs scored or known of so many retrieved."""

    passages: tuple[Found, ...]
    num_pairs: int
    score_ms: float

    def is_gold_in(self, top_k: int) -> bool:
        return any(found.is_gold for found in self.passages[:top_k])


def service_settings(mode: EarlyExit, index: Path) -> dict[str, str]:
    return {**LONG_DEADLINE, "RANKRAG_EARLY_EXIT": mode, "RANKRAG_INDEX__PATH": str(index)}


@dataclass(frozen=True, slots=True)
class Setup:
    """The processes, and what is asked of them."""

    vllm: VllmOptions
    index: Path
    out: Path
    num_clients: int
    top_n: int

    @contextmanager
    def vllm_url(self) -> Iterator[str]:
        console.print("starting vLLM (half a minute)", style="dim")
        with vllm_running(self.vllm, self.out / "vllm.log") as url:
            yield url

    def ask_all(self, vllm_url: str, mode: EarlyExit, questions: Sequence[Question], top_k: int) -> list[Outcome]:
        """Every question once, by a service of its own and without what vLLM remembers."""
        asyncio.run(VllmAdmin([vllm_url]).reset_prefix_cache())
        settings = service_settings(mode, self.index)
        log = self.out / f"service-{mode}.log"
        with (
            service_running(self.vllm.checkpoint, [vllm_url], settings, log) as service,
            httpx.Client(base_url=service.url, timeout=DEADLINE_S) as http,
            ThreadPoolExecutor(self.num_clients) as pool,
        ):
            return list(pool.map(lambda question: ask(http, question, top_n=self.top_n, top_k=top_k), questions))


def ask(http: httpx.Client, question: Question, *, top_n: int, top_k: int) -> Outcome:
    """Raises EngineError where passages were not ranked as they should be, for whatever reason."""
    body = {"question": question.text, "top_n": top_n, "top_k": top_k, "max_tokens": 1, "cache": False}
    response = http.post("/answer", json=body)
    if response.is_error:
        raise EngineError(f"/answer: {response.status_code}: {response.text}")
    answer = response.json()
    if any(name.startswith("rerank") for name in answer["degraded"]):
        raise EngineError(f"/answer: degraded: {answer['degraded']}")
    return read_outcome(answer, question.gold)


def read_outcome(answer: Mapping[str, Any], gold: str) -> Outcome:
    passages = tuple(
        Found(row["rank"], row["retrieval_rank"], row["relevance_score"], is_part_of(row["id"], gold))
        for row in answer["passages"]
    )
    num_pairs = answer["usage"]["pairs_scored"] + answer["usage"]["pairs_cached"]
    return Outcome(passages, num_pairs, answer["timings_ms"]["score"])


# --- the command lines -----------------------------------------------------------------------------------

Index = Annotated[Path, typer.Option(help="Index of what `corpus` wrote, by `rankrag index build`.")]
Data = Annotated[Path, typer.Option(help="Directory with train/ and dev/; RANKRAG_DATA by default.")]
Number = Annotated[int, typer.Option("--questions", min=1, help="Questions, drawn at random.")]
Seed = Annotated[int, typer.Option(help="Of the draw.")]
TopN = Annotated[int, typer.Option(min=TOP_K, help="Passages retrieved.")]
Clients = Annotated[int, typer.Option(min=1, help="Questions in flight.")]
Checkpoint = Annotated[str, typer.Option(help="Served and tokenised with.")]
Python = Annotated[Path, typer.Option(help="Python of vLLM's environment.")]
Out = Annotated[Path, typer.Option(help="Directory for results and logs.")]

VLLM_PYTHON = Path(".venv-vllm/bin/python")
RUNS = Path("runs/early-exit")


@app.command()
def corpus(out: Annotated[Path, typer.Argument(help="JSONL to write.")], data: Data = DATA) -> None:
    """Write all passages of data/dev and data/train, each once, as rows of an index."""
    with _errors_shown():
        rows = {
            row["id"]: row for part in ("dev", "train") for row in read_rows(_file(data, part, "passages"), INSTEAD)
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8") as file:
            for row in rows.values():
                document = {key: row[key] for key in ("id", "title", "text") if key in row}
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
    console.print(f"{out}: {len(rows)} documents", highlight=False)


@app.command()
def measure(
    index: Index, data: Data = DATA, num_questions: Number = 600, seed: Seed = 1, top_n: TopN = 20,
    clients: Clients = 4, checkpoint: Checkpoint = "models/demo", vllm_python: Python = VLLM_PYTHON, out: Out = RUNS,
) -> None:  # fmt: skip
    """Ask questions of data/dev with early exit off, on and aggressive."""
    with _errors_shown():
        setup = Setup(VllmOptions(vllm_python, checkpoint, 3072, 1), index, out, clients, top_n)
        questions = read_questions(data, "dev", num_questions, seed)
        outcomes: dict[EarlyExit, list[Outcome]] = {}
        with setup.vllm_url() as url:
            for mode in MODES:
                outcomes[mode] = setup.ask_all(url, mode, questions, TOP_K)
                console.print(f"  {mode}: {len(questions)} questions", style="dim", highlight=False)
        _report(out / "measure.json", summary(outcomes, top_n))


@app.command()
def fit(
    index: Index, data: Data = DATA, num_questions: Number = 600, seed: Seed = 1, top_n: TopN = 20,
    clients: Clients = 4, checkpoint: Checkpoint = "models/demo", vllm_python: Python = VLLM_PYTHON, out: Out = RUNS,
) -> None:  # fmt: skip
    """Fit the rule's constants to questions of data/train, all of whose passages are scored."""
    with _errors_shown():
        setup = Setup(VllmOptions(vllm_python, checkpoint, 3072, 1), index, out, clients, top_n)
        questions = read_questions(data, "train", num_questions, seed)
        with setup.vllm_url() as url:
            outcomes = setup.ask_all(url, "off", questions, top_n)
        _report(out / "fit.json", fitted([in_retrieval_order(outcome) for outcome in outcomes]))


@contextmanager
def _errors_shown() -> Iterator[None]:
    """SIGTERM, too, ends the processes that were started."""
    end_on_sigterm()
    try:
        yield
    except RankRAGError as exc:
        console.print(f"[bold red]error:[/] {escape(exc.message)}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from exc


def _report(path: Path, result: Result) -> None:
    show_table(console, result.scenario, result.table)
    if result.verdicts:
        show_verdicts(console, result.verdicts)
    conditions = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "loadtest.eval_early_exit", *sys.argv[1:]]),
        "machine": machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [result], conditions)
    console.print(str(path), highlight=False)


def read_questions(data: Path, part: Part, count: int, seed: int) -> list[Question]:
    """`count` at random; of data/train only those from `TRAIN_SOURCES`."""
    rows = [
        row
        for row in read_rows(_file(data, part, "questions"), INSTEAD)
        if part == "dev" or row["source"] in TRAIN_SOURCES
    ]
    if count > len(rows):
        raise ConfigError(f"there are only {len(rows)} questions in {part}", field="questions", limit=len(rows))
    return [Question(row["question"], row["passage_id"]) for row in random.Random(seed).sample(rows, count)]


def _file(data: Path, part: str, name: str) -> Path:
    return data / part / (f"{name}.jsonl" if part == "dev" else f"{name}.jsonl.gz")


# --- what it comes to: pure ------------------------------------------------------------------------------


def summary(outcomes: Mapping[EarlyExit, Sequence[Outcome]], top_n: int) -> Result:
    """A row a setting, and the bars for `on`."""
    rows = [_row(mode, found, outcomes["off"], top_n) for mode, found in outcomes.items()]
    loss = recall(outcomes["off"], TOP_K) - recall(outcomes["on"], TOP_K)
    verdicts = (
        Verdict("on: share of the pairs scored", "at most", MAX_SHARE, share(outcomes["on"], top_n)),
        Verdict(f"on: loss of R@{TOP_K}", "at most", MAX_LOSS, loss),
    )
    columns = ("early exit", "pairs", "R@1", f"R@{TOP_K}", "lost", "won", "score ms (median)")
    data: dict[str, Any] = {mode: [asdict(outcome) for outcome in found] for mode, found in outcomes.items()}
    return Result(f"early exit, {len(outcomes['off'])} questions", Table(columns, tuple(rows)), verdicts, data)


def _row(mode: EarlyExit, found: Sequence[Outcome], whole: Sequence[Outcome], top_n: int) -> tuple[str, ...]:
    pairs = [(one.is_gold_in(TOP_K), other.is_gold_in(TOP_K)) for one, other in zip(found, whole, strict=True)]
    return (
        mode,
        f"{share(found, top_n):.3f}",
        f"{recall(found, 1):.4f}",
        f"{recall(found, TOP_K):.4f}",
        f"{mean(before and not now for now, before in pairs):.4f}",
        f"{mean(now and not before for now, before in pairs):.4f}",
        f"{median(outcome.score_ms for outcome in found):.0f}",
    )


def share(outcomes: Sequence[Outcome], top_n: int) -> float:
    return mean(outcome.num_pairs for outcome in outcomes) / top_n


def recall(outcomes: Sequence[Outcome], top_k: int) -> float:
    return mean(outcome.is_gold_in(top_k) for outcome in outcomes)


def in_retrieval_order(outcome: Outcome) -> Outcome:
    return replace(outcome, passages=tuple(sorted(outcome.passages, key=lambda found: found.retrieval_rank)))


def fitted(outcomes: Sequence[Outcome]) -> Result:
    """The constants, and what the rule does to these questions; passages in the retriever's order, all scored."""
    ranks = [_gold_rank(outcome) for outcome in outcomes if outcome.is_gold_in(sys.maxsize)]
    offset, exponent = fit_ranks(ranks, max(len(outcome.passages) for outcome in outcomes))
    odds = fit_odds([found for outcome in outcomes for found in outcome.passages])
    rows: list[tuple[str, ...]] = [
        ("RANK_OFFSET", f"{offset:.2f}, now {RANK_OFFSET}", "", ""),
        ("RANK_EXPONENT", f"{exponent:.2f}, now {RANK_EXPONENT}", "", ""),
        ("ODDS_EXPONENT", f"{odds:.2f}, now {ODDS_EXPONENT}", "", ""),
    ]
    rows += [_simulated(outcomes, max_left) for max_left in (0.0, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)]
    columns = ("", "value, or pairs", f"R@{TOP_K}", "R@1")
    return Result(f"fitted to {len(outcomes)} questions", Table(columns, tuple(rows)), ())


def _gold_rank(outcome: Outcome) -> int:
    return next(found.retrieval_rank for found in outcome.passages if found.is_gold)


def fit_ranks(ranks: Sequence[int], top_n: int) -> tuple[float, float]:
    """(offset, exponent) by which the first gold passage is likeliest to stand where it does; on a grid of 0.01."""
    counts = np.bincount(ranks, minlength=top_n + 1)[1:]

    def log_likelihood(offset: float, exponent: float) -> float:
        weights = (np.arange(1, top_n + 1) - offset) ** -exponent
        return float(counts @ np.log(weights / weights.sum()))

    grid = [(offset / 100, exponent / 100) for offset in range(96) for exponent in range(50, 250)]
    return max(grid, key=lambda point: log_likelihood(*point))


def fit_odds(passages: Sequence[Found], *, num_steps: int = 25) -> float:
    """The slope of gold's log-odds over the score's, by logistic regression (Newton's method)."""
    relevance = np.clip([found.relevance or 0.0 for found in passages], 1e-6, 1 - 1e-6)
    inputs = np.stack([np.ones(len(passages)), np.log(relevance / (1 - relevance))], axis=1)
    labels = np.array([found.is_gold for found in passages], dtype=float)
    coefficients = np.zeros(2)
    for _ in range(num_steps):
        chance = 1 / (1 + np.exp(-inputs @ coefficients))
        curvature = inputs.T @ (inputs * (chance * (1 - chance))[:, None])
        coefficients += np.linalg.solve(curvature, inputs.T @ (labels - chance))
    return float(coefficients[1])


def _simulated(outcomes: Sequence[Outcome], max_left: float) -> tuple[str, ...]:
    rule = replace(exit_rule("on"), max_left=max_left)
    golds, num_pairs = [], 0
    for outcome in outcomes:
        order, num_scored = simulate(rule, [_score(found) for found in outcome.passages])
        golds.append([outcome.passages[index].is_gold for index in order])
        num_pairs += num_scored
    return (
        f"max_left {max_left:g}",
        f"{num_pairs / sum(len(outcome.passages) for outcome in outcomes):.3f}",
        f"{mean(any(gold[:TOP_K]) for gold in golds):.4f}",
        f"{mean(any(gold[:1]) for gold in golds):.4f}",
    )


def _score(found: Found) -> Score:
    if found.relevance is None:
        raise EngineError("a passage has no score, but early exit is off")
    return Score(found.relevance, 1.0)


def simulate(rule: ExitRule, scores: Sequence[Score]) -> tuple[list[int], int]:
    """The order after early exit, and how many pairs it takes: best first, then what was not scored."""
    known: list[Score | None] = [None] * len(scores)
    while wave := rule.next_wave(known, top_k=TOP_K):
        for index in wave:
            known[index] = scores[index]
    unscored = [index for index, score in enumerate(known) if score is None]
    return [*order_by_relevance(known), *unscored], len(scores) - len(unscored)


if __name__ == "__main__":
    app()
