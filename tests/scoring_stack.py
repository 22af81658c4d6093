"""A whole scoring engine over fake vLLM servers."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from service.adapters.dispatcher import Dispatcher
from service.adapters.memory_cache import MemoryCache
from service.adapters.replicas import Replicas
from service.adapters.scorer import Gate, VllmScorer
from service.core.admission import Admission, DrainRate, TokenEstimate
from service.core.cache_keys import CacheKeys
from service.core.early_exit import exit_rule
from service.core.schedule import Limits, Scheduler
from service.ports import NO_TRACER, Cache, Tracer
from service.settings import VllmSettings
from tests.fake_vllm import FakeVllm, fake_replicas, running

KEYS = CacheKeys(checkpoint="c", prompts="p", index="i", encoder="e")


@dataclass(frozen=True, slots=True)
class Stack:
    """The parts, for tests that look inside."""

    scorer: VllmScorer
    scheduler: Scheduler
    dispatcher: Dispatcher
    replicas: Replicas
    drain: DrainRate

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing waits, nothing runs and nobody is owed anything."""
        return not (
            self.scheduler.num_waiting_pairs
            or self.scheduler.waiting_tokens
            or self.scheduler.outstanding_tokens
            or self.dispatcher.num_requests
            or self.dispatcher.num_calls
        )


@asynccontextmanager
async def scoring_stack(
    *vllms: FakeVllm, cache: Cache | None = None, is_checked: bool = True, is_watched: bool = False,
    observe_call: Callable[[int], None] = lambda _: None, early_exit: Any = "off", max_queued_tokens: int = 2_000_000,
    observe_joined: Callable[[int], None] = lambda _: None, tracer: Tracer = NO_TRACER, **limits: Any,
) -> AsyncIterator[Stack]:  # fmt: skip
    """`limits` are settings of vLLM."""
    vllm = VllmSettings.model_validate(limits)
    opened = fake_replicas(*vllms, is_checked=is_checked, is_watched=is_watched, tracer=tracer, **limits)
    async with opened as replicas:
        scheduler = Scheduler(
            Limits(vllm.max_prompts_per_call, vllm.max_tokens_per_call, vllm.window_tokens, vllm.max_connections)
        )
        drain = DrainRate()
        dispatcher = Dispatcher(
            scheduler, replicas, drain, passes_priority=vllm.priority_scheduling, observe_call=observe_call,
            observe_joined=observe_joined, tracer=tracer,
        )  # fmt: skip
        gate = Gate(
            scheduler, drain, Admission(max_queued=max_queued_tokens), TokenEstimate(), time.monotonic
        )  # fmt: skip
        kept = cache or MemoryCache({"score": 60}, max_entries=1000)
        scorer = VllmScorer(dispatcher, replicas, replicas.tokenizer, kept, KEYS, gate, exit_rule(early_exit))
        async with running(dispatcher.run):
            yield Stack(scorer, scheduler, dispatcher, replicas, drain)
