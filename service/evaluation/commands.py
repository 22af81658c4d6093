"""`rankrag eval`: the command lines. What they need beyond the service is the extra `eval`."""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn

import httpx
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service import __version__
from service.errors import ConfigError, RankRAGError
from service.evaluation.collections import Files, read_collection, sampled
from service.settings import Settings, client_headers
from service.types import JudgedQuestion

if TYPE_CHECKING:  # heavy imports, some of the extra, only where they are needed
    from service.evaluation.http_target import HttpTarget
    from service.evaluation.local_index import IndexTarget
    from service.evaluation.reports import Report
    from service.evaluation.runs import Effort
    from service.evaluation.targets import Target

app = typer.Typer(no_args_is_help=True, help="Measure a checkpoint: ranking, answers, calibration, the gate.")
out = Console(width=None if sys.stdout.isatty() else 130)
err = Console(stderr=True)

ERROR_EXIT: Final = 2
HTTP_TIMEOUT_S: Final = 120.0
CLIENTS: Final = 4
EXTRA: Final = frozenset({"ir_measures", "matplotlib", "scipy", "sklearn", "transformers"})

Source = Annotated[Path, typer.Argument(help="JSONL (.gz), a BEIR directory, or TREC topics (.tsv).")]
Url = Annotated[str | None, typer.Option(help="A running service; in this process, with transformers, if not given.")]
Checkpoint = Annotated[str | None, typer.Option(help="In this process: the checkpoint; RANKRAG_CHECKPOINT by default.")]
Index = Annotated[
    Path | None, typer.Option(help="Index in this process: for rows without candidates, and for --context gold.")
]
Qrels = Annotated[Path | None, typer.Option(help="Judgements of TREC topics, or of BEIR's other than the split's.")]
Run = Annotated[Path | None, typer.Option(help="TREC run: what to rerank, with --corpus or BEIR's own.")]
Corpus = Annotated[Path | None, typer.Option(help="Texts of the run's documents: JSONL {id, title?, text}.")]
Split = Annotated[str, typer.Option(help="Which of BEIR's qrels.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many questions, drawn at random.")]
Seed = Annotated[int, typer.Option(help="Of draws, shuffles and intervals.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for results.json and pictures.")]
Clients = Annotated[int, typer.Option(min=1, help="Questions in flight, where a service is asked.")]


@app.command()
def retrieval(
    source: Source, url: Url = None, index: Index = None, top_n: Annotated[int, typer.Option(min=1)] = 100,
    qrels: Qrels = None, run: Run = None, corpus: Corpus = None, split: Split = "test",
    limit: Limit = None, seed: Seed = 1, clients: Clients = CLIENTS, to: Out = None,
) -> None:  # fmt: skip
    """The retriever's own order: R@k, RR, nDCG@10."""
    with errors_shown():
        from service.evaluation.reports import report_retrieval
        from service.evaluation.runs import retrieve_all

        files = Files(source, qrels, run, corpus, split)
        asked = Asked(files, limit=limit, seed=seed, url=url, index=index, clients=clients, to=to)
        questions = asked.questions()

        async def measure() -> None:
            async with asked.open_retrieval() as target, asked.effort(questions) as effort:
                found = await retrieve_all(target, questions, top_n=top_n, effort=effort)
            asked.finish(report_retrieval(found, seed), target.checkpoint)

        asyncio.run(measure())


@app.command()
def rerank(
    source: Source, url: Url = None, checkpoint: Checkpoint = None, index: Index = None,
    top_n: Annotated[int, typer.Option(min=1, help="Retrieved and ranked, where rows bring no candidates.")] = 20,
    qrels: Qrels = None, run: Run = None, corpus: Corpus = None, split: Split = "test",
    limit: Limit = None, seed: Seed = 1, clients: Clients = CLIENTS, to: Out = None,
) -> None:  # fmt: skip
    """Before and after reranking, side by side; candidates are shuffled before."""
    with errors_shown():
        from service.evaluation.reports import report_ranking
        from service.evaluation.runs import rank_all

        files = Files(source, qrels, run, corpus, split)
        asked = Asked(files, limit, seed, url, checkpoint, index, clients, to)
        questions = asked.questions()

        async def measure() -> None:
            async with asked.open() as target, asked.effort(questions) as effort:
                found = await rank_all(target, questions, top_n=top_n, seed=seed, effort=effort)
            asked.finish(report_ranking(found, seed), target.checkpoint)

        asyncio.run(measure())


@app.command()
def answer(
    source: Source, url: Url = None, checkpoint: Checkpoint = None, index: Index = None,
    context: Annotated[
        Literal["retrieved", "gold"],
        typer.Option(help="What to answer from: what is retrieved, or five passages with the one asked about."),
    ] = "retrieved",
    also: Annotated[Path | None, typer.Option(help="More questions, all of them: unanswerable ones, say.")] = None,
    top_n: Annotated[int | None, typer.Option(min=1, help="Passages to retrieve.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Passages to keep.")] = None,
    qrels: Qrels = None, run: Run = None, corpus: Corpus = None, split: Split = "test",
    limit: Limit = None, seed: Seed = 1, clients: Clients = CLIENTS, to: Out = None,
) -> None:  # fmt: skip
    """Exact match, F1, abstentions; R@k of what the answers were made from."""
    with errors_shown():
        from service.evaluation.contexts import candidates_or_index, gold_contexts
        from service.evaluation.reports import report_answers
        from service.evaluation.runs import answer_all

        files = Files(source, qrels, run, corpus, split)
        asked = Asked(files, limit, seed, url, checkpoint, index, clients, to)
        questions = asked.questions() + (read_collection(Files(also)) if also else [])

        async def measure() -> None:
            async with asked.open() as target, asked.effort(questions) as effort:
                contexts = gold_contexts(index, seed) if context == "gold" else candidates_or_index
                found = await answer_all(target, questions, contexts, top_n=top_n, top_k=top_k, effort=effort)
            asked.finish(report_answers(found, seed), target.checkpoint)

        asyncio.run(measure())


@app.command()
def gate(
    probe: Annotated[
        Path,
        typer.Option(help="JSONL (.gz) of {id, query, candidates: [{id, text, label, rank?}]} or, with an index, of "
                     "{id, question, passage_id}."),
    ],
    url: Url = None, checkpoint: Checkpoint = None, index: Index = None,
    top_n: Annotated[int, typer.Option(min=1, help="Retrieved and ranked, where rows bring no candidates.")] = 20,
    limit: Limit = None, seed: Seed = 1, clients: Clients = CLIENTS, to: Out = None,
) -> None:  # fmt: skip
    """May this checkpoint rerank? R@5 must not fall by it. Exit code 0 if so, 1 if not, 2 for errors."""
    with errors_shown():
        from service.adapters.ranking_gate import check_probe
        from service.evaluation.reports import report_ranking, verdict_of
        from service.evaluation.runs import rank_all

        asked = Asked(Files(probe), limit, seed, url, checkpoint, index, clients, to)
        questions = check_probe(asked.questions(), has_index=bool(url or index))

        async def measure() -> bool:
            async with asked.open() as target, asked.effort(questions) as effort:
                found = await rank_all(target, questions, top_n=top_n, seed=seed, effort=effort)
            verdict = verdict_of(found)
            asked.finish(report_ranking(found, seed), target.checkpoint, gate=_verdict_data(verdict))
            mark = "[bold green]passed[/]" if verdict.is_passed else "[bold red]failed[/]"
            out.print(f"{mark}: {verdict.text}", highlight=False, soft_wrap=True)
            return verdict.is_passed

        raise typer.Exit(0 if asyncio.run(measure()) else 1)


@app.command()
def calibrate(
    pairs: Annotated[Path, typer.Option(help="Judged pairs, as for `gate`.")],
    url: Url = None, checkpoint: Checkpoint = None, index: Index = None,
    top_n: Annotated[int, typer.Option(min=1, help="Retrieved and ranked, where rows bring no candidates.")] = 20,
    limit: Limit = None, seed: Seed = 1, clients: Clients = CLIENTS, to: Out = None,
    dry_run: Annotated[bool, typer.Option(help="Report, but write nothing.")] = False,
) -> None:  # fmt: skip
    """Fit P(True) to judged pairs and write calibration.json into the checkpoint's directory.

    Half of the questions are fitted to, the others show what it does. A running service must serve this checkpoint,
    and reads the file at its next start. No order changes; `min_relevance` and early exit go by the new scores.
    """
    with errors_shown():
        from service.adapters.calibration_file import read_calibration, write_calibration
        from service.adapters.ranking_gate import check_probe
        from service.adapters.tokenizer import checkpoint_directory
        from service.evaluation.calibration import fit, halves
        from service.evaluation.measures import reliability
        from service.evaluation.reports import judged_pairs, report_calibration
        from service.evaluation.runs import rank_all

        asked = Asked(Files(pairs), limit, seed, url, checkpoint, index, clients, to)
        questions = check_probe(asked.questions(), has_index=bool(url or index))
        directory = checkpoint_directory(asked.settings().checkpoint, asked.settings().checkpoint_revision)
        present = read_calibration(directory)

        async def measure() -> None:
            async with asked.open() as target, asked.effort(questions) as effort:
                found = await rank_all(target, questions, top_n=top_n, seed=seed, effort=effort)
            given, held_out = halves(found, seed)
            scores, labels = judged_pairs(given)
            fitted = fit([present.margin(score) for score in scores], labels)
            kept, truth = judged_pairs(held_out)
            after = reliability([fitted.relevance(present.margin(score)) for score in kept], truth)
            facts = {"slope": fitted.slope, "intercept": fitted.intercept, "num_pairs": len(scores)}
            asked.finish(report_calibration(reliability(kept, truth), after, facts), target.checkpoint)
            if not dry_run:
                path = write_calibration(directory, fitted, fitted_on=pairs.name, num_pairs=len(scores))
                out.print(f"[green]{escape(str(path))}[/]", highlight=False, soft_wrap=True)

        asyncio.run(measure())


def _verdict_data(verdict: Any) -> dict[str, Any]:
    return {
        "passed": verdict.is_passed, "questions": verdict.num_questions, "retrieved": verdict.retrieved_recall,
        "reranked": verdict.reranked_recall, "won": verdict.num_won, "lost": verdict.num_lost,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says, as far as all commands have it in common."""

    files: Files
    limit: int | None = None
    seed: int = 1
    url: str | None = None
    checkpoint: str | None = None
    index: Path | None = None
    clients: int = CLIENTS
    to: Path | None = None

    def questions(self) -> list[JudgedQuestion]:
        return sampled(read_collection(self.files), self.limit, self.seed)

    def settings(self) -> Settings:
        """Raises ConfigError."""
        try:
            settings = Settings()
        except ValidationError as exc:
            raise ConfigError(f"wrong settings: {exc}") from exc
        return settings.model_copy(update={"checkpoint": self.checkpoint or settings.checkpoint})

    @asynccontextmanager
    async def open(self) -> "AsyncIterator[Target]":
        from service.evaluation.http_target import HttpTarget

        if self.url is None:
            from service.evaluation.in_process import open_in_process

            yield open_in_process(self.settings(), self.index)
        else:
            async with self._http(self.url) as http:
                target = HttpTarget(http)
                await target.check()
                yield target

    @asynccontextmanager
    async def open_retrieval(self) -> "AsyncIterator[HttpTarget | IndexTarget]":
        """Without a checkpoint, where it is in this process."""
        from service.evaluation.http_target import HttpTarget
        from service.evaluation.local_index import IndexTarget, open_local_index

        if self.url is None:
            yield IndexTarget(open_local_index(self.index) if self.index else None)
        else:
            async with self._http(self.url) as http:
                yield HttpTarget(http)

    @staticmethod
    def _http(url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, timeout=HTTP_TIMEOUT_S, headers=client_headers())

    @asynccontextmanager
    async def effort(self, questions: list[JudgedQuestion]) -> "AsyncIterator[Effort]":
        """With a progress bar."""
        from service.evaluation.runs import Effort

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, transient=True) as progress:
            task = progress.add_task("questions", total=len(questions))
            yield Effort(self.clients if self.url else 1, lambda: progress.advance(task))

    def finish(self, report: "Report", checkpoint: str, **more: Any) -> None:
        """Show it and, where a folder is named, write it."""
        from service.evaluation.output import show, write

        show(out, report, str(self.files.source))
        if self.to is None:
            return
        conditions = {
            "command": shlex.join(["rankrag", *sys.argv[1:]]),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
            "checkpoint": checkpoint,
            "target": self.url or "in process",
            "source": str(self.files.source),
            "seed": self.seed,
            "limit": self.limit,
            **more,
        }
        for path in write(self.to, report, conditions):
            out.print(escape(str(path)), style="dim", highlight=False, soft_wrap=True)


@contextmanager
def errors_shown() -> Iterator[None]:
    """Exit code 2 with one line that says what is wrong."""
    try:
        yield
    except RankRAGError as exc:
        _fail(exc.message, exc)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] not in EXTRA:
            raise
        _fail(f"`rankrag eval` needs {exc.name}, which comes with the extra `eval`: pip install 'rankrag[eval]'", exc)


def _fail(message: str, cause: Exception) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(ERROR_EXIT) from cause
