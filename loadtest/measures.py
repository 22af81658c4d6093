"""What measurements say: medians, percentiles, verdicts. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contender in one round. `hit_rate` is the part of the prompt tokens that vLLM's prefix cache held."""

    contender: str
    round: int
    num_pairs: int
    num_failed: int
    seconds: float
    hit_rate: float

    @property
    def rate(self) -> float:
        """Scored pairs a second; what failed does not count."""
        return (self.num_pairs - self.num_failed) / self.seconds


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and what was measured; a bar without a measurement is not passed."""

    bar: str
    sense: Literal["at least", "at most"]
    limit: float
    value: float | None
    note: str = ""

    @property
    def is_passed(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.sense == "at least" else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as they are printed; the first column is a name, the others are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario: what the terminal shows, the verdicts, and all numbers behind them."""

    scenario: str
    table: Table
    verdicts: tuple[Verdict, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest values.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def rates(measurements: Sequence[Measurement]) -> dict[str, list[float]]:
    """Pairs a second of every contender, in the order of the rounds; contenders as they were first measured."""
    found: dict[str, list[float]] = {}
    for measurement in sorted(measurements, key=lambda one: one.round):
        found.setdefault(measurement.contender, []).append(measurement.rate)
    return found


def best(series: Mapping[str, Sequence[float]]) -> str:
    """The name with the highest median. Not the highest single value: that would be the luckiest one."""
    return max(series, key=lambda name: median(series[name]))


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """The median over rounds of value / other within one round: what drifts between rounds cancels."""
    return median(value / other for value, other in zip(values, others, strict=True))


def rate_rows(measurements: Sequence[Measurement], reference: str) -> Table:
    """A row a contender: median, range, its share of the reference, prefix hits, failures."""
    series = rates(measurements)
    rows = [
        (
            name,
            f"{median(values):.1f}",
            f"{min(values):.1f} to {max(values):.1f}",
            f"{median_ratio(values, series[reference]):.2f}",
            f"{median(one.hit_rate for one in measurements if one.contender == name):.0%}",
            str(sum(one.num_failed for one in measurements if one.contender == name)),
        )
        for name, values in series.items()
    ]
    columns = ("contender", "pairs/s", "range", f"of {reference}", "prefix hits", "failed pairs")
    return Table(columns, tuple(rows))


def is_passed(results: Sequence[Result]) -> bool:
    """Whether every scenario ran and every bar holds."""
    return all(not result.error and all(verdict.is_passed for verdict in result.verdicts) for result in results)
