"""Load, and one fault after another: `make chaos`; a short form is among the tests."""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from loadtest.drive import open_client
from loadtest.light_checkpoint import make_light_checkpoint
from loadtest.report import show_table
from loadtest.stack import machine
from service.adapters.prompt_files import read_prompts
from service.adapters.tokenizer import PromptTokenizer, open_tokenizer
from service.errors import EngineError
from tests.chaos.asks import Pool, demo_pool
from tests.chaos.faults import ALL, Fault
from tests.chaos.load import Load
from tests.chaos.observer import Observer
from tests.chaos.report import Expectations, Judged, Row, Window, row, said, table
from tests.chaos.stack import Stack, open_stack
from tests.chaos.verdicts import Pair, judge
from tests.integration.conftest import CHECKPOINT, INDEX, ROOT, started_vllm

PROBE = "answer fresh"
GIVE_UP_S = 60.0
REST_S = 3.0
MAX_DOCUMENTS = 20
AT_REST = ("rankrag_scoring_requests", "rankrag_scoring_calls")

console = Console(width=200)


@dataclass(frozen=True, slots=True)
class Plan:
    """Requests a second, seconds of peace after each fault, how many requests there are at least, and the part of
    their time that faults last.
    """

    rate: float = 25.0
    quiet_s: float = 4.0
    lasts: float = 1.0
    num_requests: int = 10_000
    seed: int = 5


LONG = Plan()


@dataclass(frozen=True, slots=True)
class Outcomes:
    """All of it; `failures` is empty where every promise was kept."""

    rows: Sequence[Row]
    num_requests: int
    totals: dict[str, int]
    failures: Sequence[str]


async def break_things(stack: Stack, pool: Pool, faults: Sequence[Fault], plan: Plan) -> Outcomes:
    """Every fault under load, then what callers got, judged by the scores that are computed at rest."""
    await fill_caches(stack, pool)
    rng, ends = random.Random(plan.seed), asyncio.Event()
    load = Load(stack.url, pool.draws(rng), plan.rate, rng)
    observer, rests = Observer(stack.url, stack.metrics_url), asyncio.Event()
    windows = []
    async with asyncio.TaskGroup() as group:
        group.create_task(observer.run(rests))
        asking = group.create_task(load.run(ends))
        await asyncio.sleep(plan.quiet_s)
        for fault in faults:
            windows.append(await _window(stack, load, fault, plan))
            _tell(windows[-1])
        while load.num_sent < plan.num_requests:  # noqa: ASYNC110 (a count sets no event)
            await asyncio.sleep(0.1)
        ends.set()
        await asking
        await asyncio.sleep(REST_S)
        rests.set()
    judged = [Judged(ask, reply, judge(ask, reply)) for ask, reply in load.replies]
    at_rest = await scores_at_rest(stack, {pair for one in judged for pair in one.verdict.scores})
    expected = Expectations(at_rest, stack.may_be_lost, stack.index_version_at)
    rows = [row(window, judged, observer.sightings, expected) for window in windows]
    wrong = [f"{one.fault}: {failure}" for one in rows for failure in one.failures]
    restless = {name: value for name, value in observer.sightings[-1].gauges.items() if name in AT_REST and value}
    wrong += [f"at rest {name} is still {value}" for name, value in restless.items()]
    wrong += [f"{load.num_sent - len(judged)} requests without an end"] if load.num_sent != len(judged) else []
    return Outcomes(rows, len(judged), dict(Counter(str(one.verdict.outcome) for one in judged)), wrong)


async def fill_caches(stack: Stack, pool: Pool) -> None:
    """Ask everything once, so that the load is the same from the first fault to the last."""
    async with open_client(stack.url, max_connections=1, timeout_s=60) as http:
        for ask in pool.each():
            await http.post(ask.path, json={**ask.body, "deadline_ms": 30_000})


async def _window(stack: Stack, load: Load, fault: Fault, plan: Plan) -> Window:
    await load.drained()
    begun_s = time.monotonic()
    await fault.begin(stack)
    await asyncio.sleep(plan.lasts * fault.lasts_s)
    ended_s = await fault.end(stack)
    try:
        recovery_s: float | None = await stack.wait_until_well(ended_s, within_s=GIVE_UP_S)
    except TimeoutError:
        recovery_s = None
    is_running = stack.is_service_running
    if not is_running:  # the next fault is to find a service, too
        await stack.wait_until_well(await stack.start_service(), within_s=GIVE_UP_S)
    await asyncio.sleep(plan.quiet_s)
    return Window(fault, begun_s, ended_s, recovery_s, time.monotonic(), is_running)


def _tell(window: Window) -> None:
    recovery = "never well again" if window.recovery_s is None else f"well again after {window.recovery_s:.1f} s"
    console.print(f"  {window.fault.name}: {recovery}", style="dim", highlight=False)


async def scores_at_rest(stack: Stack, pairs: Iterable[Pair]) -> dict[Pair, float]:
    """Each pair's score, computed anew and by nobody disturbed.

    Raises:
        EngineError: one can't be had.
    """
    by_question: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda one: (one.question, one.title, one.text)):
        by_question[pair.question].append(pair)
    found: dict[Pair, float] = {}
    async with open_client(stack.url, max_connections=1, timeout_s=60) as http:
        for question, mine in by_question.items():
            documents = [{"text": pair.text, "title": pair.title or None} for pair in mine]
            for start in range(0, len(mine), MAX_DOCUMENTS):
                body = {"query": question, "documents": documents[start : start + MAX_DOCUMENTS], "cache": False}
                response = await http.post("/rerank", json={**body, "deadline_ms": 30_000})
                if response.status_code != 200:
                    raise EngineError(f"no score at rest: {response.status_code} {response.text[:300]}")
                part = mine[start : start + MAX_DOCUMENTS]
                found |= {part[one["index"]]: one["relevance_score"] for one in response.json()["results"]}
    return found


app = typer.Typer(add_completion=False)


@app.command()
def main(
    requests: Annotated[int, typer.Option(min=1, help="At least so many.")] = LONG.num_requests,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = LONG.rate,
    seed: Annotated[int, typer.Option(help="Of questions and arrivals.")] = LONG.seed,
    only: Annotated[str, typer.Option(help="Faults whose name holds this.")] = "",
    out: Annotated[Path, typer.Option(help="Directory for chaos.json and the logs.")] = Path("runs/chaos"),
) -> None:
    """Break every part under load; the exit code says whether all promises were kept."""
    plan, faults = Plan(rate, num_requests=requests, seed=seed), [one for one in ALL if only in one.name]
    out.mkdir(parents=True, exist_ok=True)
    outcomes = asyncio.run(_run(faults, plan, out))
    show(outcomes)
    body = {"machine": machine(), "plan": asdict(plan), **asdict(outcomes)}
    (out / "chaos.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    console.print(f"{out}/chaos.json", highlight=False)
    raise typer.Exit(1 if outcomes.failures else 0)


async def _run(faults: Sequence[Fault], plan: Plan, out: Path) -> Outcomes:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # ends what was started, too
    pool = demo_pool(ROOT, random.Random(plan.seed))
    checkpoint = await asyncio.to_thread(make_light, out / "light-checkpoint")
    async with AsyncExitStack() as opened:
        directory = Path(opened.enter_context(TemporaryDirectory(prefix="rankrag-chaos-")))
        console.print("starting vLLM (half a minute)", style="dim")
        vllm = opened.enter_context(started_vllm(out / "vllm.log", checkpoint))
        await build_other_index(directory, checkpoint)
        probe = pool.ask(PROBE, next(iter(pool.documents)))
        stack = await opened.enter_async_context(open_stack(vllm, INDEX, checkpoint, directory, probe))
        console.print(f"{len(faults)} faults at {plan.rate:g} requests a second", style="dim")
        try:
            return await break_things(stack, pool, faults, plan)
        finally:
            (out / "service.log").write_bytes((directory / "service.log").read_bytes())


async def build_other_index(directory: Path, checkpoint: Path) -> None:
    """Every fourteenth of the demo's passages, as `rankrag index build` makes it, to be swapped in."""
    rows = (ROOT / "demo" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    (directory / "other.jsonl").write_text("\n".join(rows[::14]) + "\n", encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "index", "build", str(directory / "other.jsonl"),
        "--out", str(directory / "other-index"), env={**os.environ, "RANKRAG_CHECKPOINT": str(checkpoint)}, cwd=ROOT,
    )  # fmt: skip
    assert await process.wait() == 0, "the other index was not built"


def make_light(out: Path) -> Path:
    """The engine that scores as quickly as a GPU does with a real model."""
    prompts = PromptTokenizer(open_tokenizer(CHECKPOINT), read_prompts("rankrag-v1").prompts)
    return make_light_checkpoint(prompts, CHECKPOINT, out)


def show(outcomes: Outcomes) -> None:
    show_table(console, "what callers got", table(outcomes.rows))
    show_table(console, "what the service said", said(outcomes.rows))
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.totals.items()))
    console.print(f"{outcomes.num_requests} requests: {counts}", highlight=False)
    for failure in outcomes.failures:
        console.print(f"[bold red]broken promise:[/] {escape(failure)}", highlight=False)


if __name__ == "__main__":
    app()
