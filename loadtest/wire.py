"""What goes to vLLM and to the service, and what vLLM tells about its prefix cache."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtest.drive import Call
from loadtest.traffic import Request, in_parts
from service.adapters.tokenizer import Labels, PromptTokenizer
from service.errors import ConfigError, EngineError

RESET_ATTEMPTS = 100
RESET_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Wire:
    """Makes scoring calls of requests, with the token ids that the service would send."""

    model: str
    max_prompt_tokens: int
    labels: Labels
    tokenizer: PromptTokenizer

    def prompts(self, requests: Sequence[Request]) -> list[list[int]]:
        return [
            list(
                self.tokenizer.score_prompt(
                    request.question, passage.title, passage.text, max_tokens=self.max_prompt_tokens
                ).ids
            )
            for request in requests
            for passage in request.passages
        ]

    def list_calls(self, requests: Sequence[Request], size: int) -> list[Call]:
        """Lists of `size` prompts, whatever request they belong to."""
        return [self._completion(part) for part in in_parts(self.prompts(requests), size)]

    def text_calls(self, requests: Sequence[Request]) -> list[Call]:
        """One list for every request, of prompts as text: what a caller has who holds text, as ours do."""
        return [self._completion(self._texts(request)) for request in requests]

    def _texts(self, request: Request) -> list[str]:
        prompts = self.tokenizer.prompts
        return [
            prompts.score_prompt(request.question, prompts.passage_text(passage.title, passage.text)).text
            for passage in request.passages
        ]

    def generative_calls(self, requests: Sequence[Request]) -> list[Call]:
        """One /generative_scoring for every request; whole prompts as items, as the passage is in their middle."""
        return [self._generative(self.prompts([request])) for request in requests]

    def _completion(self, prompts: Sequence[Sequence[int]] | Sequence[str]) -> Call:
        body = {
            "model": self.model,
            "prompt": list(prompts),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,
            "logprob_token_ids": [self.labels.true, self.labels.false],
            "return_tokens_as_token_ids": True,
        }
        return Call("/v1/completions", body, len(prompts), "choices", "logprobs")

    def _generative(self, prompts: Sequence[Sequence[int]]) -> Call:
        body = {
            "model": self.model,
            "query": [],
            "items": list(prompts),
            "label_token_ids": [self.labels.true, self.labels.false],
        }
        return Call("/generative_scoring", body, len(prompts), "data", "score")


def rerank_call(request: Request, *, use_cache: bool, deadline_s: float | None = None) -> Call:
    """With a deadline of its own, or the service's default."""
    documents = [
        {"text": passage.text, "title": passage.title} if passage.title else passage.text
        for passage in request.passages
    ]
    deadline_ms = None if deadline_s is None else round(1000 * deadline_s)
    body = {"query": request.question, "documents": documents, "cache": use_cache, "deadline_ms": deadline_ms}
    return Call("/rerank", body, len(documents), "results", "relevance_score")


@dataclass(frozen=True, slots=True)
class PrefixCounters:
    """Prompt tokens that vLLM looked for in its prefix cache, and those that it found there."""

    queries: float = 0
    hits: float = 0

    def __add__(self, other: "PrefixCounters") -> "PrefixCounters":
        return PrefixCounters(self.queries + other.queries, self.hits + other.hits)

    def hit_rate_since(self, before: "PrefixCounters") -> float:
        queries = self.queries - before.queries
        return (self.hits - before.hits) / queries if queries else 0.0


@dataclass(frozen=True, slots=True)
class KvCache:
    num_blocks: int
    block_size: int


class VllmAdmin:
    """What the bench asks of vLLM besides scores; `urls` are all replicas."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)

    async def served_model(self) -> tuple[str, int]:
        """The model's name, and the longest prompt with its answer, in tokens."""
        async with httpx.AsyncClient(timeout=30) as http:
            response = await http.get(f"{self._urls[0]}/v1/models")
        row: dict[str, Any] = response.raise_for_status().json()["data"][0]
        return str(row["id"]), int(row["max_model_len"])

    async def reset_prefix_cache(self) -> None:
        """Forget every prefix; waits until nothing runs any more.

        Raises:
            ConfigError: this vLLM has no such call. EngineError: something kept running.
        """
        async with httpx.AsyncClient(timeout=60) as http:
            for url in self._urls:
                await _reset(http, url)

    async def prefix_counters(self) -> PrefixCounters:
        texts = await self._metrics()
        return sum((read_prefix_counters(text) for text in texts), PrefixCounters())

    async def kv_cache(self) -> KvCache:
        """All replicas together."""
        caches = [read_kv_cache(text) for text in await self._metrics()]
        return KvCache(sum(cache.num_blocks for cache in caches), caches[0].block_size)

    async def _metrics(self) -> list[str]:
        async with httpx.AsyncClient(timeout=60) as http:
            return [(await http.get(f"{url}/metrics")).raise_for_status().text for url in self._urls]


async def _reset(http: httpx.AsyncClient, url: str) -> None:
    for _ in range(RESET_ATTEMPTS):
        response = await http.post(f"{url}/reset_prefix_cache")
        if response.status_code == 404:
            raise ConfigError(f"{url} can't forget prefixes: start vLLM with VLLM_SERVER_DEV_MODE=1")
        if response.raise_for_status().json()["success"]:
            return
        await asyncio.sleep(RESET_PAUSE_S)  # a canary, or a call whose caller left
    raise EngineError(f"{url} kept running something: its prefix cache could not be reset")


def read_prefix_counters(metrics: str) -> PrefixCounters:
    """From the text of vLLM's /metrics."""
    return PrefixCounters(
        _total(metrics, "vllm:prefix_cache_queries_total"), _total(metrics, "vllm:prefix_cache_hits_total")
    )


def _total(metrics: str, name: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name
    )


def read_kv_cache(metrics: str) -> KvCache:
    """From the text of vLLM's /metrics.

    Raises:
        EngineError: it does not tell.
    """
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "vllm:cache_config_info":
                return KvCache(int(sample.labels["num_gpu_blocks"]), int(sample.labels["block_size"]))
    raise EngineError("vLLM's /metrics has no vllm:cache_config_info")
