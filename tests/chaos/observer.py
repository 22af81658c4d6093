"""What /readyz and /metrics said, all the time."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtest.drive import open_client

INTERVAL_S = 0.5
TIMEOUT_S = 2.0

COUNTED = {
    "rankrag_errors_total": "code",
    "rankrag_degraded_total": "kind",
    "rankrag_cache_failures_total": "",
    "rankrag_cache_slow_total": "",
    "rankrag_cache_dropped_total": "",
}
READ = ("rankrag_engine_up", "rankrag_scoring_requests", "rankrag_scoring_calls", "rankrag_requests_in_flight")


@dataclass(frozen=True, slots=True)
class Sighting:
    """`is_ready` is None where there was no answer; `down` are the dependencies that were not well.

    `process` tells one process from its successor; counters and gauges are by name, the former with their label.
    """

    at_s: float
    is_ready: bool | None
    down: tuple[str, ...] = ()
    process: float = 0.0
    counters: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)


class Observer:
    """Looks twice a second."""

    def __init__(self, url: str, metrics_url: str) -> None:
        self._url = url
        self._metrics_url = metrics_url
        self.sightings: list[Sighting] = []

    async def run(self, until: asyncio.Event) -> None:
        async with open_client(self._url, max_connections=2, timeout_s=TIMEOUT_S) as http:
            while not until.is_set():
                self.sightings.append(await self._look(http))
                await asyncio.sleep(INTERVAL_S)

    async def _look(self, http: httpx.AsyncClient) -> Sighting:
        at_s = time.monotonic()
        try:
            ready = (await http.get("/readyz")).json()
            text = (await http.get(f"{self._metrics_url}/metrics")).raise_for_status().text
        except (httpx.HTTPError, ValueError):
            return Sighting(at_s, None)
        down = tuple(name for name, one in ready["dependencies"].items() if not one["ok"])
        return Sighting(at_s, ready["ready"], down, *read_metrics(text))


def read_metrics(text: str) -> tuple[float, dict[str, float], dict[str, float]]:
    """When the process began, counters, gauges."""
    started, counters, gauges = 0.0, {}, {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "process_start_time_seconds":
                started = sample.value
            elif sample.name in COUNTED:
                label = sample.labels.get(COUNTED[sample.name], "")
                name = sample.name.removeprefix("rankrag_").removesuffix("_total")
                counters[f"{name}:{label}" if label else name] = sample.value
            elif sample.name in READ:
                gauges[sample.name] = sample.value
    return started, counters, gauges


def increments(sightings: Sequence[Sighting], *, since_s: float) -> dict[str, int]:
    """By how much each counter rose since then, over all processes: one that was never seen before began at 0."""
    total: Counter[str] = Counter()
    last: dict[float, Mapping[str, float]] = {}
    for one in sightings:
        if one.is_ready is None:
            continue
        before = last.get(one.process, {})
        if one.at_s >= since_s:
            total.update({name: round(value - before.get(name, 0)) for name, value in one.counters.items()})
        last[one.process] = one.counters
    return {name: count for name, count in sorted(total.items()) if count}


def unready_s(sightings: Sequence[Sighting]) -> float:
    """How long the service was not ready, or not there."""
    return sum(INTERVAL_S for one in sightings if not one.is_ready)


def said_down(sightings: Iterable[Sighting]) -> list[str]:
    return sorted({name for one in sightings for name in one.down})
