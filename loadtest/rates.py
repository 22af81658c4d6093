"""Scenarios about pairs a second: unique pairs, repeated passages, repeated questions, two replicas."""

from collections.abc import Sequence
from dataclasses import asdict

from loadtest.lab import Lab
from loadtest.measures import Measurement, Result, Verdict, best, median_ratio, rate_rows, rates
from loadtest.traffic import Request, num_blocks, num_within, rotated

OURS_UNIQUE, OURS_PASSAGES = "ours, unique pairs", "ours, repeated passages"
OURS_QUESTIONS = "ours, repeated questions"


async def unique_pairs(lab: Lab) -> Result:
    """Every way of asking, over the same new pairs.

    The clients of the bar ask as clients do, with the score cache on, which holds none of these pairs; the other
    numbers of clients ask about the same pairs and so go without it.
    """
    await lab.warm_up()
    plan = lab.plan
    lists = [lab.lists(size, concurrency) for size, concurrency in plan.raw_grid]
    singles = [lab.singles(connections) for connections in plan.single_connections]
    counts = sorted({*plan.client_counts, plan.num_clients})
    ours = [lab.ours(clients, use_cache=clients == plan.num_clients) for clients in counts]
    found = await lab.rounds([*lists, *singles, lab.generative(), *ours], lab.unique)
    series = rates(found)
    raw = best({contender.name: series[contender.name] for contender in lists})
    us = lab.ours(plan.num_clients, use_cache=True).name
    bars = ((raw, 0.90), (singles[0].name, 1.5), ("generative_scoring", 0.95))
    verdicts = tuple(
        Verdict(f"unique pairs: {us} / {other}", "at least", limit, median_ratio(series[us], series[other]))
        for other, limit in bars
    )
    data = {"measurements": dumped(found), "ours": us, "bars": dict(bars)}
    return Result("unique", rate_rows(found, raw), verdicts, data)


async def repeated_passages(lab: Lab) -> Result:
    """Zipf over the corpus with new questions, in a service that has run for a while: what vLLM's prefix cache gives.

    Each contender has draws of its own, as the prompts of another one would be whole in the prefix cache.
    """
    await lab.warm_up()
    plan = lab.plan
    us = lab.ours(plan.num_clients, use_cache=False)
    others = (lab.lists(32, 4), lab.generative())
    contenders = [(us, OURS_PASSAGES), *((other, f"{other.name}, repeated passages") for other in others)]
    num_head = await head_size(lab)
    lab.say(f"the head: {num_head} passages, {lab.traffic.zipf.share_of_head(num_head):.0%} of all draws")
    found: list[Measurement] = []
    for number in range(plan.rounds):
        found.append(await lab.measure(us, lab.unique(), number=number, name=OURS_UNIQUE))
        await warm_head(lab, num_head)
        for contender, name in rotated(contenders, number):
            found.append(await lab.measure(contender, zipf_requests(lab), number=number, name=name, reset=False))
    series = rates(found)
    ratio = median_ratio(series[OURS_PASSAGES], series[OURS_UNIQUE])
    verdict = Verdict("repeated passages, score cache off / unique pairs", "at least", 2.0, ratio)
    data = {"measurements": dumped(found), "ratio": ratio, "num_head": num_head}
    return Result("passages", rate_rows(found, OURS_UNIQUE), (verdict,), data)


def zipf_requests(lab: Lab) -> list[Request]:
    return lab.traffic.repeated_passages(lab.plan.num_pairs // lab.plan.num_documents, lab.plan.num_documents)


async def head_size(lab: Lab) -> int:
    """How many of the most frequent passages the KV cache holds, each with a question."""
    cache = await lab.admin.kv_cache()
    question = lab.traffic.unique(1, 1)[0].question
    prompts = (lab.wire.prompts([Request(question, (passage,))])[0] for passage in lab.traffic.by_rank)
    blocks = (num_blocks(len(prompt), cache.block_size) for prompt in prompts)
    return num_within(blocks, int(cache.num_blocks * lab.plan.head_share))


async def warm_head(lab: Lab, num_head: int) -> None:
    """Score the head once, through the service, so that each passage goes where the service sends it."""
    requests = lab.traffic.head(num_head, lab.plan.num_documents)
    await lab.measure(lab.ours(lab.plan.num_clients, use_cache=False), requests, name="warming the head")


async def repeated_questions(lab: Lab) -> Result:
    """The same requests again and again, score cache on: after the first time only the service works."""
    await lab.warm_up()
    plan = lab.plan
    us = lab.ours(plan.num_clients, use_cache=True)
    found: list[Measurement] = []
    for number in range(plan.rounds):
        pool = lab.unique(plan.num_repeated_requests * plan.num_documents)
        again = [request for _ in range(plan.repeats) for request in lab.rng.sample(pool, len(pool))]
        found.append(await lab.measure(us, pool, number=number, name=OURS_UNIQUE))
        found.append(await lab.measure(us, again, number=number, name=OURS_QUESTIONS))
    series = rates(found)
    ratio = median_ratio(series[OURS_QUESTIONS], series[OURS_UNIQUE])
    verdict = Verdict("repeated questions, score cache on / unique pairs", "at least", 20.0, ratio)
    return Result(
        "questions", rate_rows(found, OURS_UNIQUE), (verdict,), {"measurements": dumped(found), "ratio": ratio}
    )


async def two_replicas(one: Lab, two: Lab) -> Result:
    """One service over one vLLM beside one over two, which share this machine. No bar: cores decide it."""
    found: list[Measurement] = []
    for lab in (one, two):
        await lab.warm_up()
    labs = [(one, "one replica", await head_size(one)), (two, "two replicas", await head_size(two))]
    for number in range(one.plan.rounds):
        asked = one.unique()
        for lab, name, num_head in rotated(labs, number):
            us = lab.ours(lab.plan.num_clients, use_cache=False)
            found.append(await lab.measure(us, asked, number=number, name=f"{name}, unique pairs"))
            await warm_head(lab, num_head)
            drawn = zipf_requests(lab)
            found.append(
                await lab.measure(us, drawn, number=number, name=f"{name}, repeated passages", reset=False)
            )  # fmt: skip
    return Result("replicas", rate_rows(found, "one replica, unique pairs"), (), {"measurements": dumped(found)})


def dumped(measurements: Sequence[Measurement]) -> list[dict[str, object]]:
    return [{**asdict(one), "rate": one.rate} for one in measurements]
