"""Scores of (question, passage) pairs from vLLM, a request's pairs as few list calls, cached."""

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from typing import TypeGuard

from service.adapters.engine import Engine
from service.adapters.vllm_client import ServedModel
from service.core.cache_keys import CacheKeys
from service.core.schedule import plan_calls
from service.core.scoring import score_from_logprobs
from service.errors import DeadlineError
from service.ports import Cache, Scores
from service.settings import VllmSettings
from service.types import Passage, Score, Usage

_PACKED = struct.Struct("<dd")  # relevance, label mass


class VllmScorer:
    """The Scorer port over one engine. At most `max_connections` calls are under way at once."""

    def __init__(
        self, engine: Engine, cache: Cache, keys: CacheKeys, settings: VllmSettings, *,
        clock: Callable[[], float] = time.monotonic, observe_batch: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._cache = cache
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._observe_batch = observe_batch
        self._slots = asyncio.Semaphore(settings.max_connections)

    async def score(self, question: str, passages: Sequence[Passage], *, deadline_s: float, use_cache: bool) -> Scores:
        keys = [self._keys.score(question, passage) for passage in passages]
        known = await self._cached(keys) if use_cache else {}
        missing = {key: passage for key, passage in zip(keys, passages, strict=True) if key not in known}
        usage = Usage(pairs_cached=sum(key in known for key in keys))
        if missing:
            computed, num_tokens = await self._compute(question, list(missing.values()), deadline_s)
            fresh = dict(zip(missing, computed, strict=True))
            if use_cache:
                await self._cache.set_many("score", {key: pack(score) for key, score in fresh.items()})
            known |= fresh
            usage += Usage(prompt_tokens=num_tokens, completion_tokens=len(fresh), pairs_scored=len(fresh))
        return Scores(tuple(known[key] for key in keys), usage)

    async def _cached(self, keys: Sequence[str]) -> dict[str, Score]:
        unique = list(dict.fromkeys(keys))
        values = await self._cache.get_many("score", unique)
        return {key: unpack(value) for key, value in zip(unique, values, strict=True) if is_packed(value)}

    async def _compute(self, question: str, passages: Sequence[Passage], deadline_s: float) -> tuple[list[Score], int]:
        model = self._engine.model()
        prompts = await asyncio.to_thread(self._prompts, question, passages, model)
        cuts = plan_calls(
            [len(prompt) for prompt in prompts],
            max_prompts=self._settings.max_prompts_per_call,
            max_tokens=self._settings.max_tokens_per_call,
        )
        try:
            async with asyncio.timeout(deadline_s - self._clock()), asyncio.TaskGroup() as group:
                calls = [group.create_task(self._call(model, prompts[cut], deadline_s)) for cut in cuts]
        except TimeoutError as exc:
            raise DeadlineError("the passages could not be scored in the time this request has") from exc
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the others are this one's cancelled or equal sisters
        scores = [score for call in calls for score in call.result()[0]]
        return scores, sum(call.result()[1] for call in calls)

    def _prompts(self, question: str, passages: Sequence[Passage], model: ServedModel) -> list[tuple[int, ...]]:
        tokenizer, limit = self._engine.tokenizer, model.max_model_len - 1
        return [tokenizer.score_prompt(question, p.title, p.text, max_tokens=limit).ids for p in passages]

    async def _call(
        self, model: ServedModel, prompts: Sequence[Sequence[int]], deadline_s: float
    ) -> tuple[list[Score], int]:
        async with self._slots:
            self._observe_batch(len(prompts))
            found, num_tokens = await self._engine.client.label_logprobs(
                model.id, prompts, self._engine.labels, timeout_s=max(deadline_s - self._clock(), 0.001)
            )
        self._engine.note_progress()
        return [score_from_logprobs(logprobs.true, logprobs.false) for logprobs in found], num_tokens


def pack(score: Score) -> bytes:
    """16 bytes: two little-endian doubles."""
    return _PACKED.pack(score.relevance, score.label_mass)


def is_packed(value: bytes | None) -> TypeGuard[bytes]:
    """Whether `value` can be what `pack` made: whatever else is in the cache is a miss, not a score."""
    if value is None or len(value) != _PACKED.size:
        return False
    return all(0.0 <= part <= 1.0 for part in _PACKED.unpack(value))


def unpack(value: bytes) -> Score:
    return Score(*_PACKED.unpack(value))
