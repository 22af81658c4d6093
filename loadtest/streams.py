"""The scenario about answers: when their first words come, beside vLLM's own time for the same prompt."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

from loadtest.drive import closed_loop, open_client
from loadtest.lab import Lab
from loadtest.measures import Result, Table, Verdict
from loadtest.traffic import Request, rotated
from loadtest.waits import latency_row
from service.errors import EngineError
from service.types import Passage

MAX_TOKENS = 32
BEFORE_THE_ANSWER = ("encode", "search", "score")
OURS, STAGES, DIRECT = (
    "ours, first words of the answer",
    "of it retrieval and scoring",
    "vLLM, the answer's prompt alone",
)


@dataclass(frozen=True, slots=True)
class Streamed:
    """Until the first words, of it until the passages were scored, and what the answer's prompt was made from."""

    first_words_s: float
    stages_s: float
    context: tuple[Passage, ...]


async def first_words(lab: Lab) -> Result:
    """One idle /answer after the other; then its prompt, of the same token ids, sent to vLLM directly.

    Each time with an empty prefix cache, but for the instructions in the front of every prompt: ours has them from
    scoring, so vLLM gets them by one score, too.
    """
    await lab.warm_up()
    seconds: dict[str, list[float]] = {OURS: [], STAGES: [], DIRECT: []}
    for number in range(lab.plan.num_answers):
        question = lab.traffic.unique(1, 1)[0].question
        context = (await _ours(lab, question)).context
        for who in rotated((OURS, DIRECT), number):
            if who is OURS:
                streamed = await _ours(lab, question)
                seconds[OURS].append(streamed.first_words_s)
                seconds[STAGES].append(streamed.stages_s)
            else:
                seconds[DIRECT].append(await _direct(lab, question, context))
    rest = [ours - stages for ours, stages in zip(seconds[OURS], seconds[STAGES], strict=True)]
    ratio = median(rest) / median(seconds[DIRECT])
    verdict = Verdict(
        "first words, less retrieval and scoring / vLLM's own for the same prompt", "at most", 1.1, ratio, "medians"
    )
    rows = tuple(latency_row(name, found) for name, found in seconds.items())
    table = Table(("until", "answers", "p50 ms", "p95 ms", "p99 ms"), rows)
    return Result("stream", table, (verdict,), {"seconds": seconds, "ratio": ratio})


async def _ours(lab: Lab, question: str) -> Streamed:
    await lab.admin.reset_prefix_cache()
    body = {"question": question, "stream": True, "cache": False, "max_tokens": MAX_TOKENS}
    first_s, final = None, None
    begun_s = time.perf_counter()
    async with _events(lab.service.url, "/answer", body, lab.timeout_s) as events:
        async for event in events:
            if first_s is None and event["type"] == "answer.delta":
                first_s = time.perf_counter() - begun_s
            if event["type"] == "final":
                final = event
    if first_s is None or final is None:
        raise EngineError(f"no answer was streamed to {question!r}")
    context = tuple(Passage("", one["text"], one["title"]) for one in final["passages"] if one["in_context"])
    return Streamed(first_s, sum(final["timings_ms"][stage] for stage in BEFORE_THE_ANSWER) / 1000, context)


async def _direct(lab: Lab, question: str, context: Sequence[Passage]) -> float:
    texts = [(passage.title, passage.text) for passage in context]
    prompt = lab.wire.tokenizer.answer_prompt(question, texts, max_tokens=lab.wire.max_prompt_tokens - MAX_TOKENS).ids
    body = {
        "model": lab.wire.model, "prompt": list(prompt), "max_tokens": MAX_TOKENS, "temperature": 0, "stream": True,
    }  # fmt: skip
    await lab.admin.reset_prefix_cache()
    calls = lab.wire.list_calls([Request(question, tuple(context[:1]))], 1)
    await closed_loop(lab.vllm_url, calls, concurrency=1, timeout_s=lab.timeout_s)
    begun_s = time.perf_counter()
    async with _events(lab.vllm_url, "/v1/completions", body, lab.timeout_s) as events:
        async for event in events:
            if event["choices"][0]["text"]:
                return time.perf_counter() - begun_s
    raise EngineError(f"vLLM gave no words for {question!r}")


@asynccontextmanager
async def _events(
    url: str, path: str, body: Mapping[str, Any], timeout_s: float
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Over a new connection, as every call here; the server's objects as they come."""
    async with (
        open_client(url, max_connections=1, timeout_s=timeout_s) as http,
        http.stream("POST", path, json=body) as response,
    ):
        if response.status_code != httpx.codes.OK:
            raise EngineError(f"{path} answered {response.status_code}")
        yield _objects(response)


async def _objects(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        data = line.removeprefix("data: ")
        if data != line and data != "[DONE]":
            yield json.loads(data)
