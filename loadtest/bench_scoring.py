"""`make bench`: scoring by the service beside what vLLM itself can do, in one run on one machine."""

import asyncio
import gc
import random
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from loadtest import corpus as texts_of
from loadtest.lab import FULL, SMOKE, Lab, Plan
from loadtest.light_checkpoint import make_light_checkpoint
from loadtest.measures import Result, Table, is_passed
from loadtest.picture import save
from loadtest.rates import repeated_passages, repeated_questions, two_replicas, unique_pairs
from loadtest.report import show, show_verdicts, write_json
from loadtest.stack import (
    LONG_DEADLINE,
    RunningService,
    VllmOptions,
    end_on_sigterm,
    machine,
    service_running,
    vllm_arguments,
    vllm_running,
)
from loadtest.streams import first_words
from loadtest.traffic import Traffic
from loadtest.waits import DEADLINE_S, added_latency, overload, small_beside_big
from loadtest.wire import VllmAdmin, Wire
from service.adapters.prompt_files import read_prompts
from service.adapters.tokenizer import PromptTokenizer, checkpoint_directory, open_tokenizer
from service.errors import RankRAGError
from service.local_stack import VLLM_ARGUMENTS

PROMPTS = "rankrag-v1"
DEMO_CHECKPOINT = "models/demo"
INDEX = "build/demo-index"
FAILED_EXIT = 1
LINE_CHARS = 130

app = typer.Typer(add_completion=False)
console = Console(width=None if sys.stdout.isatty() else LINE_CHARS)


class Name(StrEnum):
    """What can be measured."""

    UNIQUE = "unique"
    PASSAGES = "passages"
    QUESTIONS = "questions"
    BESIDE = "beside"
    OVERLOAD = "overload"
    LATENCY = "latency"
    STREAM = "stream"
    REPLICAS = "replicas"


SERVICE_DEADLINE = {"RANKRAG_REQUEST_TIMEOUT_S": f"{DEADLINE_S:g}"}

Scenario = Callable[[Lab], Awaitable[Result]]
SCENARIOS: dict[Name, tuple[Scenario, Mapping[str, str]]] = {
    Name.UNIQUE: (unique_pairs, LONG_DEADLINE),
    Name.PASSAGES: (repeated_passages, LONG_DEADLINE),
    Name.QUESTIONS: (repeated_questions, LONG_DEADLINE),
    Name.BESIDE: (small_beside_big, SERVICE_DEADLINE),
    Name.OVERLOAD: (overload, SERVICE_DEADLINE),
    Name.LATENCY: (added_latency, LONG_DEADLINE),
    Name.STREAM: (first_words, {**LONG_DEADLINE, "RANKRAG_INDEX__PATH": INDEX}),
}


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that outlives one scenario."""

    plan: Plan
    vllm: VllmOptions
    traffic: Traffic
    tokenizer: PromptTokenizer
    rng: random.Random
    logs: Path

    def lab(self, urls: Sequence[str], service: RunningService) -> Lab:
        admin = VllmAdmin(urls)
        model, max_model_len = asyncio.run(admin.served_model())
        wire = Wire(model, max_model_len - 1, self.tokenizer.labels(), self.tokenizer)
        return Lab(urls[0], admin, service, wire, self.traffic, self.plan, self.rng, _say)

    def run(self, name: Name, url: str) -> Result:
        """One scenario with a service of its own; what keeps it from running is its result."""
        console.rule(name, align="left", style="dim")
        try:
            return self._run_replicas(url) if name is Name.REPLICAS else self._run_one(name, url)
        except* (RankRAGError, httpx.HTTPError) as group:
            reasons = "; ".join(f"{type(exc).__name__}: {exc}" for exc in _leaves(group))
        console.print(f"[red]{name} did not run:[/] {escape(reasons)}", highlight=False)
        return Result(name, Table((), ()), (), error=reasons)

    def _run_one(self, name: Name, url: str) -> Result:
        scenario, settings = SCENARIOS[name]
        with self._service(name, [url], settings) as service:
            return asyncio.run(_awaited(scenario(self.lab([url], service))))

    def _run_replicas(self, url: str) -> Result:
        with ExitStack() as stack:
            second = stack.enter_context(vllm_running(self.vllm, self.logs / "vllm-2.log"))
            labs = [
                self.lab(urls, stack.enter_context(self._service(f"replicas-{len(urls)}", urls, LONG_DEADLINE)))
                for urls in ([url], [url, second])
            ]
            return asyncio.run(two_replicas(*labs))

    @contextmanager
    def _service(self, name: str, urls: Sequence[str], settings: Mapping[str, str]) -> Iterator[RunningService]:
        log = self.logs / f"service-{name}.log"
        with service_running(self.vllm.checkpoint, urls, settings, log) as service:
            yield service


async def _awaited(result: Awaitable[Result]) -> Result:
    return await result


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc


def _say(line: str) -> None:
    console.print(f"  {line}", style="dim", highlight=False, markup=False)


@app.command()
def bench(
    scenario: Annotated[list[Name] | None, typer.Option(help="What to measure; repeat for several; all.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = FULL.rounds,
    pairs: Annotated[int, typer.Option(min=20, help="Pairs per contender and round.")] = FULL.num_pairs,
    corpus: Annotated[Path | None, typer.Option(help="Passages, JSONL (.gz).")] = None,
    questions: Annotated[Path | None, typer.Option(help="Questions, JSONL.")] = None,
    own_data: Annotated[bool, typer.Option("--own-data", help="The repository's demo texts.")] = False,
    checkpoint: Annotated[
        str, typer.Option(help="Served and tokenised with; a light one with random weights if not given.")
    ] = "",
    vllm_python: Annotated[Path, typer.Option(help="Python of vLLM's environment.")] = Path(".venv-vllm/bin/python"),
    vllm_blocks: Annotated[int, typer.Option(help="KV cache blocks of each vLLM, 32 tokens each.")] = 16_384,
    vllm_kv_gib: Annotated[int, typer.Option(help="Memory for them, GiB.")] = 5,
    vllm_arguments: Annotated[str, typer.Option(help="More arguments for vLLM, in one string.")] = "",
    out: Annotated[Path, typer.Option(help="Directory for results.json, bench.png and logs.")] = Path("runs/bench"),
    seed: Annotated[int, typer.Option(help="Of draws and arrivals.")] = FULL.seed,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a bar is missed.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny: whether it runs, not what it measures.")] = False,
) -> None:
    """Measure scoring through the service beside direct calls to the same vLLM."""
    plan = replace(SMOKE, seed=seed) if smoke else replace(FULL, rounds=rounds, num_pairs=pairs, seed=seed)
    end_on_sigterm()
    try:
        served = checkpoint or str(_light_checkpoint(out))
        vllm = VllmOptions(vllm_python, served, vllm_blocks, vllm_kv_gib, tuple(shlex.split(vllm_arguments)))
        files = _files(corpus, questions, own_data=own_data)
        prepared = _prepare(plan, vllm, files, out / "logs")
        conditions = _conditions(plan, vllm, files, prepared)
        results = _run_all(prepared, scenario or list(Name), lambda found: _keep(out, found, conditions))
    except RankRAGError as exc:
        console.print(f"[bold red]error:[/] {escape(exc.message)}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    show(console, results)
    console.print(f"{out}/results.json  {out}/bench.png", highlight=False)
    raise typer.Exit(FAILED_EXIT if strict and not is_passed(results) else 0)


def _files(corpus: Path | None, questions: Path | None, *, own_data: bool) -> texts_of.TextFiles:
    default = texts_of.own_files() if own_data else texts_of.public_files()
    return texts_of.TextFiles(corpus or default.corpus, questions or default.questions)


def _prepare(plan: Plan, vllm: VllmOptions, files: texts_of.TextFiles, logs: Path) -> Bench:
    texts, rng = texts_of.read_texts(files), random.Random(plan.seed)
    prompts = _tokenizer(vllm.checkpoint)
    console.print(f"{len(texts.passages)} passages, {len(texts.questions)} questions", highlight=False)
    return Bench(plan, vllm, Traffic(texts.passages, texts.questions, rng), prompts, rng, logs)


def _tokenizer(checkpoint: str) -> PromptTokenizer:
    return PromptTokenizer(open_tokenizer(checkpoint_directory(checkpoint, None)), read_prompts(PROMPTS).prompts)


def _light_checkpoint(out: Path) -> Path:
    """Made anew in every run: which is quicker than to know whether an old one is still right."""
    return make_light_checkpoint(_tokenizer(DEMO_CHECKPOINT), Path(DEMO_CHECKPOINT), out / "light-checkpoint")


def _run_all(bench: Bench, names: Sequence[Name], keep: Callable[[Sequence[Result]], None]) -> list[Result]:
    """Each scenario on the same vLLM; what is known is kept after each, as the next one may be interrupted."""
    results: list[Result] = []
    gc.freeze()  # the texts: a collector that walks through them stops the client, for which the service would pay
    console.print("starting vLLM (half a minute)", style="dim")
    with vllm_running(bench.vllm, bench.logs / "vllm.log") as url:
        for name in names:
            results.append(bench.run(name, url))
            show_verdicts(console, results[-1].verdicts)
            keep(results)
    return results


def _conditions(plan: Plan, vllm: VllmOptions, files: texts_of.TextFiles, bench: Bench) -> dict[str, object]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "loadtest.bench_scoring", *sys.argv[1:]]),
        "machine": machine(),
        "plan": asdict(plan),
        "vllm": shlex.join([*VLLM_ARGUMENTS, *vllm_arguments(vllm)]),
        "corpus": files.corpus.name,
        "questions": files.questions.name,
        "num_passages": len(bench.traffic.by_rank),
    }


def _keep(out: Path, results: Sequence[Result], conditions: Mapping[str, object]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", results, conditions)
    facts = conditions["machine"]
    cores = f"{facts['cpu']}, {facts['num_cores']} cores" if isinstance(facts, dict) else ""
    save(out / "bench.png", results, f"rankrag scoring   ·   {conditions['at']}   ·   {cores}")


if __name__ == "__main__":
    app()
