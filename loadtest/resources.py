"""What the service holds over time: memory, file descriptors, tasks, connections; and its cache's hits."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from loadtest.profiles import Span

# The part of a phase, at its beginning and at its end, over which medians are taken.
EDGE = 0.1
NAMES = {
    "process_resident_memory_bytes": "rss_bytes",
    "process_open_fds": "fds",
    "rankrag_tasks": "tasks",
    "rankrag_requests_in_flight": "in_flight",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one moment of the run; `values` by name."""

    at_s: float
    values: Mapping[str, float]


def read_sample(at_s: float, text: str) -> Sample:
    """From the text of /metrics."""
    values = {
        NAMES[sample.name]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in NAMES
    }
    return Sample(at_s, values)


def cache_lookups(text: str) -> dict[str, float]:
    """`kind:result` with its count, from the text of /metrics."""
    return {
        f"{sample.labels['kind']}:{sample.labels['result']}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "rankrag_cache_lookups_total"
    }


def hit_shares(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """`KIND_hit_share` of the look-ups between the two."""
    made = {name: count - before.get(name, 0) for name, count in after.items()}
    kinds = {name.partition(":")[0] for name in made}
    totals = {kind: sum(count for name, count in made.items() if name.startswith(f"{kind}:")) for kind in kinds}
    return {f"{kind}_hit_share": made.get(f"{kind}:hit", 0) / total for kind, total in sorted(totals.items()) if total}


class Sampler:
    """Reads /metrics once in `interval_s`; of a process on this machine its connections, too."""

    def __init__(self, metrics_url: str, pid: int | None, *, interval_s: float, headers: Mapping[str, str]) -> None:
        self._http = httpx.Client(base_url=metrics_url, timeout=10, headers=dict(headers))
        self._pid = pid
        self._interval_s = interval_s
        self._is_over = threading.Event()
        self.samples: list[Sample] = []

    def text(self) -> str:
        """/metrics as it is. Raises httpx.HTTPError."""
        return self._http.get("/metrics").raise_for_status().text

    def close(self) -> None:
        self._http.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample in a thread; moments count from here."""
        thread = threading.Thread(target=self._run, args=[time.monotonic()])
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _run(self, begun_s: float) -> None:
        while not self._is_over.wait(self._interval_s):
            at_s = time.monotonic() - begun_s
            try:
                sample = read_sample(at_s, self.text())
                self.samples.append(Sample(at_s, {**sample.values, **self._connections()}))
            except (httpx.HTTPError, psutil.Error):
                continue  # a sample less: what was lost shows in the visits

    def _connections(self) -> dict[str, float]:
        if self._pid is None:
            return {}
        made = psutil.Process(self._pid).net_connections("tcp")
        return {"connections": sum(one.status == psutil.CONN_ESTABLISHED for one in made)}


def growth(samples: Sequence[Sample], spans: Sequence[Span]) -> dict[str, float]:
    """`PHASE.rss_growth`: the end of a measured phase to its beginning, less 1. `rest_NAME_growth`: by how much more
    there is of something in the last rest than in the first.
    """
    found: dict[str, float] = {}
    for span in spans:
        inside = [one.values["rss_bytes"] for one in samples if span.holds(one.at_s) and "rss_bytes" in one.values]
        if span.is_measured and len(inside) >= 2:
            edge = max(round(EDGE * len(inside)), 1)
            found[f"{span.name}.rss_growth"] = median(inside[-edge:]) / median(inside[:edge]) - 1
    rests = [span for span in spans if span.per_s == 0]
    if len(rests) >= 2:
        first, last = (_at_rest(samples, rest) for rest in (rests[0], rests[-1]))
        found |= {f"rest_{name}_growth": last[name] - first[name] for name in first.keys() & last.keys()}
    return found


def _at_rest(samples: Sequence[Sample], rest: Span) -> dict[str, float]:
    """The least of each that was seen in the second half of a rest: idle connections have been closed by then."""
    half_s = (rest.begin_s + rest.end_s) / 2
    inside = [one.values for one in samples if half_s <= one.at_s < rest.end_s]
    names = {name for values in inside for name in values}
    return {name: min(values[name] for values in inside if name in values) for name in names}
