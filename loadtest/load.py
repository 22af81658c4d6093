"""`make load`: one profile against a running service, or against one that is started for it.

The requests come from a process of their own (`loadtest.generate`, Locust); this one samples what the service holds,
judges by the profile's thresholds and writes the report.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from loadtest.corpus import own_files, read_rows
from loadtest.light_checkpoint import make_light_checkpoint
from loadtest.load_page import Run, write_page
from loadtest.measures import Verdict
from loadtest.outcomes import Measures, Visit, measures, read_visit
from loadtest.profiles import Phase, Profile, Span, find_profile, moments, read_profiles, spans
from loadtest.report import show_verdicts
from loadtest.resources import Sampler, cache_lookups, growth, hit_shares
from loadtest.search import Trial, search
from loadtest.stack import VllmOptions, end_on_sigterm, machine, redis_running, service_running, vllm_running
from service.adapters.prompt_files import read_prompts
from service.adapters.tokenizer import PromptTokenizer, open_tokenizer
from service.errors import ConfigError, RankRAGError

DEMO_CHECKPOINT, INDEX = Path("models/demo"), Path("build/demo-index")
CAPACITY = "capacity"
API_KEY = "RANKRAG_API_KEY"  # pragma: allowlist secret
SAMPLE_INTERVAL_S = 1.0
CLOSED_USERS, CLOSED_S, TRIAL_S = 16, 20.0, 20.0
FAILED_EXIT = 1

console = Console()
app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked; `pid` of a service on this machine."""

    url: str
    metrics_url: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Lab:
    """One target and what it is asked about; `out` takes everything that is written."""

    target: Target
    profile: Profile
    questions: Sequence[str]
    passages: Sequence[str]
    locustfile: str
    seed: int
    out: Path

    def offer(self, phases: Sequence[Phase], capacity: float | None, name: str) -> Run:
        """The phases in an open loop."""
        laid = spans(phases, capacity)
        due = moments(laid, random.Random(f"{self.seed}:{name}"))
        return self._run(name, laid, capacity, {"moments": due})

    def closed(self, num_users: int, seconds: float, name: str) -> Run:
        """So many users, one question after the other."""
        laid = [Span(name, 0.0, seconds, 0.0, is_measured=True)]
        return self._run(name, laid, None, {"closed_users": num_users, "seconds": seconds})

    def _run(self, name: str, laid: Sequence[Span], capacity: float | None, what: Mapping[str, Any]) -> Run:
        at, pid = self.target.metrics_url, self.target.pid
        with closing(Sampler(at, pid, interval_s=SAMPLE_INTERVAL_S, headers=_authorization())) as sampler:
            before = cache_lookups(sampler.text())
            with sampler.running():
                visits = self._generate(name, what, laid[-1].end_s)
            shares = hit_shares(before, cache_lookups(sampler.text()))
        found = measures(visits, laid, self.profile.slo, capacity) | shares | growth(sampler.samples, laid)
        return Run(name, laid, visits, sampler.samples, found)

    def _generate(self, name: str, what: Mapping[str, Any], until_s: float) -> list[Visit]:
        """Another process, since Locust's gevent and this one's threads don't go together.

        Raises:
            ConfigError: it ended with an error, which it has said itself.
        """
        plan, rows = self.out / f"{name}.plan.json", self.out / f"{name}.visits.jsonl"
        asked = {"questions": self.questions, "passages": self.passages, "locustfile": self.locustfile}
        fields = self.profile.model_dump(include=_WORKLOAD)
        loop = {"closed_users": 0, "moments": [], **what}
        plan.write_text(
            json.dumps(
                {
                    "name": name,
                    "url": self.target.url,
                    "seed": self.seed,
                    "api_key": os.environ.get(API_KEY, ""),
                    **asked,
                    **fields,
                    **loop,
                }
            )
        )
        ended = subprocess.run(
            [sys.executable, "-m", "loadtest.generate", str(plan), str(rows)], timeout=until_s + 120, check=False
        )
        if ended.returncode != 0:
            raise ConfigError(f"the load generator ended with {ended.returncode}")
        return [read_visit(json.loads(row)) for row in rows.read_text(encoding="utf-8").splitlines()]

    def find_capacity(self) -> tuple[float, list[Trial]]:
        """Of this profile's workload: closed loop first, then open loops.

        Raises:
            ConfigError: hardly anything is answered in time.
        """
        top = self.closed(CLOSED_USERS, CLOSED_S, "closed").measures["answered_per_s"]
        console.print(f"  {CLOSED_USERS} users: {top:.1f} questions/s", style="dim", highlight=False)

        def offer(per_s: float) -> Measures:
            phase = Phase(name="trial", seconds=TRIAL_S, rate=per_s)
            found = self.offer([phase], None, f"trial-{per_s:.2f}").measures
            console.print(
                f"  {per_s:.1f}/s offered: {found['goodput_share']:.0%} as promised", style="dim", highlight=False
            )
            return found

        capacity, trials = search(top, offer)
        if not capacity:
            raise ConfigError(f"of {trials[0].per_s:.1f} questions/s too few were answered as promised to go on")
        return capacity, trials


_WORKLOAD = {"mix", "zipf", "cache", "top_n", "top_k", "max_tokens", "documents", "deadline_s", "fresh_every_s"}


def _authorization() -> dict[str, str]:
    key = os.environ.get(API_KEY, "")
    return {"Authorization": f"Bearer {key}"} if key else {}


@app.command()
def load(
    profile: Annotated[str, typer.Argument(help="A name in loadtest/profiles.yaml, or `capacity`.")] = "smoke",
    url: Annotated[str, typer.Option(help="A running service; without one, one is started.")] = "",
    metrics_url: Annotated[str, typer.Option(help="Where its /metrics is, if elsewhere.")] = "",
    capacity: Annotated[float, typer.Option(help="Questions a second; else as last found, or searched for.")] = 0,
    scale: Annotated[float, typer.Option(help="Multiplies the length of every phase, for a look.")] = 1,
    questions: Annotated[Path | None, typer.Option(help="JSONL with `question`; the demo's if not given.")] = None,
    locustfile: Annotated[str, typer.Option(help="A file with your own OpenLoopUser.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Served locally; a light one with random weights if not given.")] = "",
    vllm_python: Annotated[Path, typer.Option(help="Python of vLLM's environment.")] = Path(".venv-vllm/bin/python"),
    seed: Annotated[int, typer.Option(help="Of arrivals and questions.")] = 1,
    out: Annotated[Path, typer.Option(help="Directory for the report, the visits and the logs.")] = Path("runs/load"),
) -> None:
    """Load a service by a profile; the exit code is 1 where a threshold is missed."""
    end_on_sigterm()
    try:
        chosen = find_profile(profile) if profile != CAPACITY else read_profiles()["steady"]
        chosen = chosen.model_copy(update={"phases": [_scaled(phase, scale) for phase in chosen.phases]})
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            target = Target(url, metrics_url or url) if url else stack.enter_context(
                local_target(chosen, checkpoint, vllm_python, out)
            )  # fmt: skip
            lab = _lab(target, chosen, questions, locustfile, seed, out)
            warm_up(lab)
            verdicts = _measure(lab, profile, capacity or None)
    except RankRAGError as exc:
        console.print(f"[bold red]error:[/] {escape(exc.message)}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from exc
    raise typer.Exit(0 if all(verdict.is_passed for verdict in verdicts) else FAILED_EXIT)


def _scaled(phase: Phase, scale: float) -> Phase:
    return phase.model_copy(update={"seconds": phase.seconds * scale})


def _lab(target: Target, profile: Profile, questions: Path | None, locustfile: str, seed: int, out: Path) -> Lab:
    files = own_files()
    asked = [row["question"] for row in read_rows(questions or files.questions, "give --questions")]
    passages = [row["text"] for row in read_rows(files.corpus, "it comes with the repository")]
    random.Random(seed).shuffle(asked)
    return Lab(target, profile, asked, passages, locustfile, seed, out)


def warm_up(lab: Lab) -> None:
    """The first question of all pays for what is made once.

    Raises:
        ConfigError: the service does not answer.
    """
    body = {"question": lab.questions[0], "cache": False, "deadline_ms": 30_000}
    try:
        answered = httpx.post(f"{lab.target.url}/answer", json=body, timeout=60, headers=_authorization())
        httpx.get(f"{lab.target.metrics_url}/metrics", headers=_authorization()).raise_for_status()
    except httpx.HTTPError as exc:
        raise ConfigError(f"{lab.target.url} can't be asked: {exc}", field="url") from exc
    if answered.is_error:
        raise ConfigError(f"{lab.target.url} answers {answered.status_code}: {answered.text[:300]}", field="url")


def _measure(lab: Lab, name: str, capacity: float | None) -> list[Verdict]:
    """The profile, and before it the capacity where it is needed."""
    known = (
        lab.out / f"capacity-{'cached' if lab.profile.cache else 'fresh'}.json"
    )  # another workload, another capacity
    if name == CAPACITY or (lab.profile.needs_capacity and capacity is None and not known.is_file()):
        found, trials = lab.find_capacity()
        known.write_text(json.dumps({"per_s": found, "trials": [asdict(trial) for trial in trials]}) + "\n")
        console.print(f"capacity: {found:.2f} questions/s", highlight=False)
        if name == CAPACITY:
            return []
    if lab.profile.needs_capacity and capacity is None:
        capacity = float(json.loads(known.read_text())["per_s"])
    run = lab.offer(lab.profile.phases, capacity, name)
    verdicts = [
        verdict
        for bar, threshold in lab.profile.thresholds.items()
        for verdict in threshold.verdicts(bar, run.measures.get(bar))
    ]
    _report(lab, run, capacity, verdicts)
    return verdicts


def _report(lab: Lab, run: Run, capacity: float | None, verdicts: Sequence[Verdict]) -> None:
    conditions = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "profile": run.name,
        "capacity_per_s": capacity,
        "seed": lab.seed,
        "machine": machine(),
    }
    page, figures = lab.out / f"{run.name}.html", lab.out / f"{run.name}.json"
    judged = [{**asdict(verdict), "is_passed": verdict.is_passed} for verdict in verdicts]
    samples = [{"at_s": one.at_s, **one.values} for one in run.samples]
    body = {**conditions, "plan": lab.profile.model_dump(), "verdicts": judged, "measures": run.measures}
    figures.write_text(json.dumps({**body, "samples": samples}, indent=1) + "\n", encoding="utf-8")
    write_page(page, run, verdicts, conditions, lab.profile)
    show_verdicts(console, verdicts)
    console.print(f"{page}  {figures}", highlight=False)


@contextmanager
def local_target(profile: Profile, checkpoint: str, vllm_python: Path, out: Path) -> Iterator[Target]:
    """vLLM, Redis and the service, as `make demo` has them; ended at the end.

    Raises:
        ConfigError: a part did not come up.
    """
    if not (INDEX / "manifest.json").is_file():
        raise ConfigError(f"{INDEX} holds no index: `make index` builds it")
    served = checkpoint or str(_light_checkpoint(out / "light-checkpoint"))
    logs = out / "logs"
    console.print("starting vLLM (half a minute) and the service", style="dim")
    options = VllmOptions(vllm_python, served, num_blocks=3072, kv_cache_gib=1)
    with (
        vllm_running(options, logs / "vllm.log") as vllm_url,
        redis_running() as redis_url,
    ):
        settings = {
            "RANKRAG_INDEX__PATH": str(INDEX), "RANKRAG_REDIS_URL": redis_url, "RANKRAG_VLLM__HEALTH_TIMEOUT_S": "5",
            **profile.settings,
        }  # fmt: skip
        with service_running(served, [vllm_url], settings, logs / "service.log") as service:
            yield Target(service.url, service.url, service.pid)


def _light_checkpoint(out: Path) -> Path:
    prompts = PromptTokenizer(open_tokenizer(DEMO_CHECKPOINT), read_prompts("rankrag-v1").prompts)
    return make_light_checkpoint(prompts, DEMO_CHECKPOINT, out)


if __name__ == "__main__":
    app()
