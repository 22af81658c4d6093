"""What a load run came to: visits, their percentiles, goodput and refusals. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from loadtest.measures import percentile
from loadtest.profiles import Slo, Span


class End(StrEnum):
    """How a visit ended; the first that holds of what it requested."""

    UNANSWERED = "unanswered"
    ERROR = "error"
    TIMED_OUT = "timed out"
    REFUSED = "refused"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of a visit; `status` 0 where there was no response."""

    name: str
    status: int
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Visit:
    """One arrival. Seconds since the run began."""

    task: str
    due_s: float
    sent_s: float
    done_s: float
    first_words_s: float | None = None
    exchanges: tuple[Exchange, ...] = ()
    notes: tuple[str, ...] = ()
    failure: str = ""

    @property
    def e2e_s(self) -> float:
        """From the moment it was due: a generator that is late makes the service look no faster."""
        return self.done_s - self.due_s

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_words_s is None else self.first_words_s - self.due_s

    @property
    def end(self) -> End:
        ends = {_end_of(exchange) for exchange in self.exchanges}
        if self.failure and not ends - {End.OK}:
            ends.add(End.ERROR)
        return next((end for end in End if end in ends), End.ERROR)

    def is_good(self, slo: Slo) -> bool:
        """Answered, and as soon as was promised."""
        is_prompt = self.ttft_s is None or self.ttft_s <= slo.ttft_s
        return self.end is End.OK and self.e2e_s <= slo.e2e_s and is_prompt


def _end_of(exchange: Exchange) -> End:
    if exchange.status == 0:
        return End.UNANSWERED
    if exchange.status in (429, 504):
        return End.REFUSED if exchange.status == 429 else End.TIMED_OUT
    return End.OK if exchange.status < 400 and not exchange.failure else End.ERROR


def visit_row(visit: Visit) -> dict[str, Any]:
    return asdict(visit)


def read_visit(row: Mapping[str, Any]) -> Visit:
    exchanges = tuple(Exchange(**one) for one in row["exchanges"])
    return Visit(**{**row, "exchanges": exchanges, "notes": tuple(row["notes"])})


Measures = dict[str, float]


def summary(visits: Sequence[Visit], seconds: float, slo: Slo) -> Measures:
    """Figures of some visits, due within `seconds`. Percentiles are of those that were answered, refusals apart."""
    ends = Counter(visit.end for visit in visits)
    total = len(visits)
    good = sum(visit.is_good(slo) for visit in visits)
    answered = [visit for visit in visits if visit.end is End.OK]
    return {
        "requests": total,
        "offered_per_s": total / seconds,
        "answered_per_s": len(answered) / seconds,
        "goodput_per_s": good / seconds,
        "goodput_share": good / total if total else 0.0,
        "refused_share": ends[End.REFUSED] / total if total else 0.0,
        "degraded_share": sum(is_degraded(visit) for visit in visits) / total if total else 0.0,
        "cached_share": sum("cached" in visit.notes for visit in visits) / total if total else 0.0,
        "timed_out": ends[End.TIMED_OUT],
        "unanswered": ends[End.UNANSWERED],
        "errors": ends[End.ERROR],
        **_percentiles("e2e", [visit.e2e_s for visit in answered]),
        **_percentiles("ttft", [visit.ttft_s for visit in answered if visit.ttft_s is not None]),
        **_percentiles("refusal", [visit.e2e_s for visit in visits if visit.end is End.REFUSED]),
        **_percentiles("late", [visit.sent_s - visit.due_s for visit in visits]),
    }


def is_degraded(visit: Visit) -> bool:
    return any(note != "cached" for note in visit.notes)


def _percentiles(name: str, values: Sequence[float]) -> Measures:
    return {f"{name}_p{percent}_s": percentile(values, percent) for percent in (50, 90, 99)} if values else {}


def measures(visits: Sequence[Visit], spans: Sequence[Span], slo: Slo, capacity: float | None) -> Measures:
    """Of all measured phases together; `PHASE.` of each; `TASK.` of each task in the measured phases."""
    measured = [span for span in spans if span.is_measured]
    seconds = sum(span.end_s - span.begin_s for span in measured)
    mine = [visit for visit in visits if any(span.holds(visit.due_s) for span in measured)]
    found = summary(mine, seconds, slo)
    if capacity:
        found["answered_of_capacity"] = found["answered_per_s"] / capacity
    for span in measured:
        inside = [visit for visit in mine if span.holds(visit.due_s)]
        found |= _prefixed(span.name, summary(inside, span.end_s - span.begin_s, slo))
    for task in sorted({visit.task for visit in mine}):
        found |= _prefixed(task, summary([visit for visit in mine if visit.task == task], seconds, slo))
    return found


def _prefixed(name: str, found: Mapping[str, float]) -> Measures:
    return {f"{name}.{key}": value for key, value in found.items()}


def per_second(visits: Iterable[Visit], num_seconds: int) -> dict[End, list[int]]:
    """How many visits that were due in each second ended in each way."""
    counts = {end: [0] * num_seconds for end in End}
    for visit in visits:
        if visit.due_s < num_seconds:
            counts[visit.end][int(visit.due_s)] += 1
    return counts
