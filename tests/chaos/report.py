"""What the faults did, as figures, and everything that must not have happened. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.measures import Table, percentile
from tests.chaos.asks import Ask
from tests.chaos.faults import Fault
from tests.chaos.observer import Sighting, increments, said_down, unready_s
from tests.chaos.verdicts import Outcome, Pair, Reply, Verdict, invented

RECOVERY_S = 10.0
MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Window:
    """From the moment that a fault began until the next one's. `recovery_s` is None where all never was well again."""

    fault: Fault
    begun_s: float
    ended_s: float
    recovery_s: float | None
    until_s: float
    is_service_running: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """One request."""

    ask: Ask
    reply: Reply
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One fault."""

    fault: str
    lasted_s: float
    recovery_s: float | None
    outcomes: Mapping[str, int]
    details: Mapping[str, int]
    p99_s: float
    slowest_s: float
    unready_s: float
    down: Sequence[str]
    counters: Mapping[str, int]
    failures: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is needed to judge beyond the replies: the right scores, who may be lost, which index was open when."""

    at_rest: Mapping[Pair, float]
    may_be_lost: Callable[[Reply], bool]
    index_version_at: Callable[[float], str]


def row(window: Window, judged: Sequence[Judged], sightings: Sequence[Sighting], expected: Expectations) -> Row:
    """Of the requests that were due in the window."""
    mine = [one for one in judged if window.begun_s <= one.reply.due_s < window.until_s]
    seen = [one for one in sightings if window.begun_s <= one.at_s < window.until_s]
    latencies = [one.reply.done_s - one.reply.due_s for one in mine] or [0.0]
    return Row(
        fault=window.fault.name,
        lasted_s=window.ended_s - window.begun_s,
        recovery_s=window.recovery_s,
        outcomes=dict(Counter(str(one.verdict.outcome) for one in mine)),
        details=dict(Counter(one.verdict.detail for one in mine if one.verdict.outcome not in _UNNAMED)),
        p99_s=percentile(latencies, 99),
        slowest_s=max(latencies),
        unready_s=unready_s(seen),
        down=said_down(seen),
        counters=increments([one for one in sightings if one.at_s < window.until_s], since_s=window.begun_s),
        failures=failures(window, mine, expected),
    )


_UNNAMED = frozenset({Outcome.OK, Outcome.LOST})


def failures(window: Window, judged: Sequence[Judged], expected: Expectations) -> list[str]:
    """Every promise that was broken, with a few examples of each."""
    wrong = [*_recovery(window)]
    for name, is_wrong in _promises(window.fault, expected).items():
        found = [one for one in judged if is_wrong(one)]
        examples = "; ".join(_example(one, window, expected) for one in found[:MAX_EXAMPLES])
        wrong += [f"{len(found)} {name}: {examples}"] if found else []
    return wrong


def _promises(fault: Fault, expected: Expectations) -> dict[str, Callable[[Judged], bool]]:
    return {
        "hung past their deadline": lambda one: one.verdict.outcome is Outcome.HUNG,
        "malformed": lambda one: one.verdict.outcome is Outcome.BROKEN,
        "lost while the service was there": lambda one: (
            one.verdict.outcome is Outcome.LOST and not expected.may_be_lost(one.reply)
        ),
        "errors that this fault does not excuse": lambda one: (
            one.verdict.outcome is Outcome.ERROR and one.verdict.detail not in fault.codes
        ),
        "degraded for no reason": lambda one: one.verdict.outcome is Outcome.DEGRADED and not fault.may_degrade,
        "with scores that nobody computed": lambda one: bool(invented(one.verdict, expected.at_rest)),
        "from another index than is open": lambda one: (
            bool(one.verdict.index_version)
            and one.verdict.index_version != expected.index_version_at(one.reply.done_s)
        ),
    }  # fmt: skip


def _example(one: Judged, window: Window, expected: Expectations) -> str:
    wrong = invented(one.verdict, expected.at_rest)
    said = wrong[0] if wrong else one.verdict.detail
    return f"{one.ask.kind} sent at {one.reply.sent_s - window.begun_s:+.2f} s: {said}"


def _recovery(window: Window) -> list[str]:
    wrong = []
    if window.recovery_s is None:
        wrong.append("never well again")
    elif window.recovery_s > RECOVERY_S:
        wrong.append(f"well again after {window.recovery_s:.1f} s, {RECOVERY_S:g} s at most are allowed")
    if not window.is_service_running:
        wrong.append("the service died")
    return wrong


def table(rows: Sequence[Row]) -> Table:
    """What callers got and how long it took; the second table has what the service said of itself."""
    columns = ("fault", "s", "requests", "ok", "degraded", "error", "lost", "hung", "broken", "p99 s", "well again s")
    return Table(columns, tuple(_cells(one) for one in rows))


def _cells(one: Row) -> tuple[str, ...]:
    counts = [str(one.outcomes.get(outcome, 0)) for outcome in Outcome]
    recovery = "never" if one.recovery_s is None else f"{one.recovery_s:.1f}"
    total = str(sum(one.outcomes.values()))
    return (one.fault, f"{one.lasted_s:.0f}", total, *counts, f"{one.p99_s:.2f}", recovery)


def said(rows: Sequence[Row]) -> Table:
    columns = ("fault", "not ready s", "not well", "details", "counters")
    return Table(
        columns,
        tuple(
            (one.fault, f"{one.unready_s:.1f}", " ".join(one.down) or "-", _pairs(one.details), _pairs(one.counters))
            for one in rows
        ),
    )


def _pairs(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"
