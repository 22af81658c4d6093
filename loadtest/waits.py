"""Scenarios about time: small requests beside a big one, overload, and what an idle service adds."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from loadtest.drive import Call, Drive, Outcome, Reply, closed_loop, open_loop
from loadtest.lab import Contender, Lab
from loadtest.measures import Result, Table, Verdict, percentile
from loadtest.traffic import Request, poisson_moments, rotated
from loadtest.wire import rerank_call
from service.errors import EngineError

# A response that comes so long after its deadline counts as none.
GRACE_S = 30.0
# The most that a request may ask for, by default.
BIG_DEADLINE_S = 60.0
# Before the big request comes, the small ones are on their way.
LEAD_S = 1.0
# About how long the big request takes beside the small ones, in units of what the capacity would allow alone.
BESIDE_PART = 1.2
# The service's own default, and told to it.
DEADLINE_S = 9.0
RSS_INTERVAL_S = 0.5
LIST_CALL, TEXT_CALL = "list call of token ids", "list call of texts"
OURS_NEW, OURS_SEEN = "ours, new documents", "ours, seen documents"
MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Beside:
    """One round: latencies of small requests alone and with a big one in flight, and both times of the big one."""

    alone_s: tuple[float, ...]
    beside_s: tuple[float, ...]
    big_alone_s: float
    big_beside_s: float
    num_failed: int


async def small_beside_big(lab: Lab) -> Result:
    """Small requests arrive by a Poisson process, whatever happens to those before them."""
    await lab.warm_up()
    capacity = await lab.capacity()
    rate = lab.plan.small_share * capacity / lab.plan.num_small
    rounds: list[Beside] = []
    for number in range(lab.plan.rounds):
        rounds.append(await _beside_round(lab, rate, expected_big_s=lab.plan.num_big / capacity))
        last = rounds[-1]
        lab.say(
            f"round {number + 1}  the big request: {last.big_alone_s:.2f} s alone, {last.big_beside_s:.2f} s beside"
        )
    alone = [latency for one in rounds for latency in one.alone_s]
    beside = [latency for one in rounds for latency in one.beside_s]
    num_failed = sum(one.num_failed for one in rounds)
    slowdown = percentile(beside, 95) / percentile(alone, 95) if alone and beside else None
    big = median(one.big_beside_s / one.big_alone_s for one in rounds)
    small_name, big_name = f"{lab.plan.num_small} documents", f"{lab.plan.num_big} documents"
    verdicts = (
        Verdict(f"p95 of {small_name} beside {big_name} / alone", "at most", 2.5, slowdown),
        Verdict(f"time of {big_name} beside the small / alone", "at most", 1.3, big),
        Verdict("beside: requests without a complete answer", "at most", 0, num_failed),
    )
    data = {
        "alone_s": alone,
        "beside_s": beside,
        "big_alone_s": [one.big_alone_s for one in rounds],
        "big_beside_s": [one.big_beside_s for one in rounds],
        "small_per_s": rate,
        "capacity_pairs_per_s": capacity,
    }
    table = Table(
        ("request", "requests", "p50 ms", "p95 ms", "p99 ms"),
        (
            latency_row(f"{small_name}, alone", alone),
            latency_row(f"{small_name}, beside", beside),
            latency_row(f"{big_name}, alone", [one.big_alone_s for one in rounds]),
            latency_row(f"{big_name}, beside", [one.big_beside_s for one in rounds]),
        ),
    )
    return Result("beside", table, verdicts, data)


async def _beside_round(lab: Lab, rate: float, *, expected_big_s: float) -> Beside:
    # The same moments alone and beside: how they cluster decides the slowest. Beside, the small ones end when the
    # big one is done; how long it takes is what is measured.
    moments, end = poisson_moments(rate, LEAD_S + 10 * expected_big_s, lab.rng), asyncio.Event()
    await lab.admin.reset_prefix_cache()
    big_alone = await _ask(lab, _big(lab))
    await lab.admin.reset_prefix_cache()
    alone = await _small(lab, [moment for moment in moments if moment < LEAD_S + BESIDE_PART * expected_big_s], None)
    await lab.admin.reset_prefix_cache()
    async with asyncio.TaskGroup() as group:
        small = group.create_task(_small(lab, moments, end))
        big_beside = await _big_after_lead(lab, end)
    beside = small.result()
    in_flight = [one for one in beside.outcomes if LEAD_S <= one.scheduled_s < LEAD_S + big_beside.latency_s]
    everything = (*alone.outcomes, *beside.outcomes, big_alone, big_beside)
    return Beside(
        tuple(one.latency_s for one in alone.outcomes if one.scheduled_s >= LEAD_S),
        tuple(one.latency_s for one in in_flight),
        big_alone.latency_s,
        big_beside.latency_s,
        sum(not one.is_ok for one in everything),
    )


def _big(lab: Lab) -> Call:
    return rerank_call(lab.traffic.unique(1, lab.plan.num_big)[0], use_cache=False, deadline_s=BIG_DEADLINE_S)


async def _big_after_lead(lab: Lab, end: asyncio.Event) -> Outcome:
    call = _big(lab)
    await asyncio.sleep(LEAD_S)
    try:
        return await _ask(lab, call)
    finally:
        end.set()


async def _ask(lab: Lab, call: Call) -> Outcome:
    drive = await closed_loop(lab.service.url, [call], concurrency=1, timeout_s=lab.timeout_s)
    return drive.outcomes[0]


async def _small(lab: Lab, moments: Sequence[float], end: asyncio.Event | None) -> Drive:
    requests = lab.traffic.unique(len(moments), lab.plan.num_small)
    calls = [rerank_call(request, use_cache=False) for request in requests]
    return await open_loop(lab.service.url, calls, moments, timeout_s=lab.timeout_s, end=end)


def latency_row(name: str, latencies_s: Sequence[float]) -> tuple[str, ...]:
    shown = [f"{percentile(latencies_s, percent) * 1000:.0f}" if latencies_s else "-" for percent in (50, 95, 99)]
    return (name, str(len(latencies_s)), *shown)


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of one offered load; `load` in units of the capacity, rates in requests a second."""

    load: float
    offered_per_s: float
    good_per_s: float
    counts: dict[str, int]
    refused_p99_s: float | None
    ok_p50_s: float | None
    ok_p95_s: float | None
    late_sending_p99_s: float
    rss_peak_bytes: int


async def overload(lab: Lab) -> Result:
    """Requests at fixed moments, up to three times as many as can be served; the service's own default deadline."""
    await lab.warm_up()
    per_s = await lab.capacity() / lab.plan.num_documents
    found: list[Offered] = []
    settled_bytes: list[int] = []
    for load in lab.plan.loads:
        settled_bytes.append(lab.service.rss_bytes())
        found.append(await _offer(lab, load, load * per_s))
        await lab.settle()
    rss_before, rss_after = settled_bytes[-1], lab.service.rss_bytes()
    after = await _ask(lab, rerank_call(lab.traffic.unique(1, lab.plan.num_documents)[0], use_cache=False))
    most = found[-1]
    best_per_s = max(one.good_per_s for one in found)
    share = most.good_per_s / best_per_s if best_per_s else None
    name = f"overload {most.load:g} ×"
    verdicts = (
        Verdict(f"{name}: completed in time / best at any load", "at least", 0.9, share),
        Verdict(f"{name}: p99 of refusals, ms", "at most", 50, _ms(most.refused_p99_s), "scheduled to answered"),
        Verdict("any load: requests unanswered", "at most", 0, sum(one.counts[Reply.UNANSWERED] for one in found)),
        Verdict(f"{name}: service memory after / before", "at most", 1.1, rss_after / rss_before, "RSS, settled"),
        Verdict(f"{name}: asked again afterwards, answered", "at least", 1, int(after.is_ok)),
    )
    data = {
        "capacity_per_s": per_s,
        "loads": [_offered_row(one) for one in found],
        "rss_before_mib": rss_before / MEBIBYTE,
        "rss_after_mib": rss_after / MEBIBYTE,
    }
    columns = (
        "load", "offered/s", "good/s", "good", "late", "429", "504", "other", "p50 ms", "p95 ms", "429 p99", "MiB",
    )  # fmt: skip
    return Result("overload", Table(columns, tuple(_shown(one) for one in found)), verdicts, data)


async def _offer(lab: Lab, load: float, rate: float) -> Offered:
    moments = poisson_moments(rate, lab.plan.overload_s, lab.rng)
    requests = lab.traffic.unique(len(moments), lab.plan.num_documents)
    calls = [rerank_call(request, use_cache=False) for request in requests]
    end = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        peak = group.create_task(_peak_rss(lab, end))
        drive = await open_loop(lab.service.url, calls, moments, timeout_s=DEADLINE_S + GRACE_S)
        end.set()
    offered = judge_load(drive.outcomes, load=load, duration_s=lab.plan.overload_s, rss_peak_bytes=peak.result())
    lab.say(f"load {load:g}: {offered.offered_per_s:.1f} requests/s offered, {offered.good_per_s:.1f} in time")
    return offered


async def _peak_rss(lab: Lab, end: asyncio.Event) -> int:
    peak = 0
    while not end.is_set():
        peak = max(peak, lab.service.rss_bytes())
        await asyncio.sleep(RSS_INTERVAL_S)
    return peak


def judge_load(outcomes: Sequence[Outcome], *, load: float, duration_s: float, rss_peak_bytes: int) -> Offered:
    """Good is: complete, in time, and done while the load was on (what drains afterwards is no throughput)."""
    ok = [one for one in outcomes if one.is_ok]
    in_time = [one for one in ok if one.latency_s <= DEADLINE_S]
    refused = [one.latency_s for one in outcomes if one.reply is Reply.REFUSED]
    counts = Counter({str(reply): 0 for reply in Reply} | {"late": len(ok) - len(in_time), "in time": len(in_time)})
    counts.update(str(one.reply) for one in outcomes)
    return Offered(
        load=load,
        offered_per_s=len(outcomes) / duration_s,
        good_per_s=sum(one.done_s <= duration_s for one in in_time) / duration_s,
        counts=dict(counts),
        refused_p99_s=percentile(refused, 99) if refused else None,
        ok_p50_s=percentile([one.latency_s for one in ok], 50) if ok else None,
        ok_p95_s=percentile([one.latency_s for one in ok], 95) if ok else None,
        late_sending_p99_s=percentile([one.sent_s - one.scheduled_s for one in outcomes], 99) if outcomes else 0.0,
        rss_peak_bytes=rss_peak_bytes,
    )


def _offered_row(one: Offered) -> dict[str, object]:
    return {
        "load": one.load,
        "offered_per_s": one.offered_per_s,
        "good_per_s": one.good_per_s,
        "counts": one.counts,
        "refused_p99_s": one.refused_p99_s,
        "ok_p50_s": one.ok_p50_s,
        "ok_p95_s": one.ok_p95_s,
        "late_sending_p99_s": one.late_sending_p99_s,
        "rss_peak_mib": one.rss_peak_bytes / MEBIBYTE,
    }


def _shown(one: Offered) -> tuple[str, ...]:
    others = sum(one.counts[reply] for reply in (Reply.PARTIAL, Reply.ERROR, Reply.UNANSWERED))
    counts = (one.counts["in time"], one.counts["late"], one.counts[Reply.REFUSED], one.counts[Reply.TIMED_OUT], others)
    times = (_ms(one.ok_p50_s), _ms(one.ok_p95_s), _ms(one.refused_p99_s))
    return (
        f"{one.load:g} ×",
        f"{one.offered_per_s:.2f}",
        f"{one.good_per_s:.2f}",
        *(str(count) for count in counts),
        *("-" if time_ms is None else f"{time_ms:.0f}" for time_ms in times),
        f"{one.rss_peak_bytes / MEBIBYTE:.0f}",
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


async def added_latency(lab: Lab) -> Result:
    """One idle request after the other, by the list call and by the service; each with an empty prefix cache.

    The list call twice: with prompts that were tokenised beforehand, and with the texts, which is what callers of the
    service send. The service twice: about documents that it never saw, and about ones that it knows from another
    question.
    """
    await lab.warm_up()
    raw, texts, ours = lab.lists(lab.plan.num_documents, 1), lab.texts(), lab.ours(1, use_cache=False)
    seconds: dict[str, list[float]] = {LIST_CALL: [], TEXT_CALL: [], OURS_NEW: [], OURS_SEEN: []}
    contenders = [(LIST_CALL, raw), (TEXT_CALL, texts), (OURS_NEW, ours)]
    for number in range(lab.plan.num_latencies):
        request = lab.traffic.unique(1, lab.plan.num_documents)[0]
        again = replace(request, question=lab.traffic.unique(1, 1)[0].question)
        for name, contender in rotated(contenders, number):
            seconds[name].append(await _time_alone(lab, contender, [request]))
        seconds[OURS_SEEN].append(await _time_alone(lab, ours, [again]))
    added = {
        (name, over): _added_ms(seconds[name], seconds[over])
        for name in (OURS_NEW, OURS_SEEN) for over in (LIST_CALL, TEXT_CALL)
    }  # fmt: skip
    verdicts = tuple(
        Verdict(
            f"added to an idle {over} of {lab.plan.num_documents}, ms", "at most", 5, added[OURS_NEW, over],
            note=f"{added[OURS_SEEN, over]:.1f} where the documents were seen before",
        )
        for over in (LIST_CALL, TEXT_CALL)
    )  # fmt: skip
    rows = [latency_row(name, found) for name, found in seconds.items()]
    rows += [(f"{name}, to {over}: median difference", "", f"{ms:.1f}", "", "") for (name, over), ms in added.items()]
    table = Table(("request", "requests", "p50 ms", "p95 ms", "p99 ms"), tuple(rows))
    recorded = {f"{name} over {over}": ms for (name, over), ms in added.items()}
    return Result("latency", table, verdicts, {"seconds": seconds, "added_ms": recorded})


def _added_ms(ours_s: Sequence[float], raw_s: Sequence[float]) -> float:
    return 1000 * median(us - them for us, them in zip(ours_s, raw_s, strict=True))


async def _time_alone(lab: Lab, contender: Contender, requests: Sequence[Request]) -> float:
    """Seconds for one call.

    Raises:
        EngineError: it failed; how long a failure takes is not the question.
    """
    calls = contender.calls(requests)
    await lab.admin.reset_prefix_cache()
    drive = await closed_loop(lab.url(contender), calls, concurrency=1, timeout_s=lab.timeout_s)
    if drive.num_failed:
        raise EngineError(f"{contender.name}: {drive.outcomes[0].reply}")
    return drive.seconds
