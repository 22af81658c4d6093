"""How often each caller asks, counted in Redis for all replicas or, without it, in this process."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import structlog
from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.ports import Allowance

log = structlog.get_logger(__name__)

PREFIX = "rankrag:rate"

# Two counters a caller, weighted: no burst at a window's border, and no list of all requests.
Counters = SlidingWindowCounterRateLimiter


class SharedRates:
    """The RateLimiter port. Redis that is down or slow stops nobody: each process counts by itself for a while."""

    def __init__(
        self, shared: Counters | None, own: Counters, *, timeout_s: float, retry_after_s: float,
        clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time,
        count_failure: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._own = own
        self._timeout_s = timeout_s
        self._retry_after_s = retry_after_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._count_failure = count_failure
        self._closed_until_s = float("-inf")

    async def take(self, caller: str, rates: str) -> Allowance:
        items = _parsed(rates)
        if self._shared is None or self._clock() < self._closed_until_s:
            return await self._take(self._own, caller, items)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._take(self._shared, caller, items)
        except (RedisError, OSError, TimeoutError) as exc:
            self._closed_until_s = self._clock() + self._retry_after_s
            self._count_failure()
            log.warning("rates_counted_here", error=str(exc) or "slow", retry_after_s=self._retry_after_s)
            return await self._take(self._own, caller, items)

    async def _take(self, counters: Counters, caller: str, items: Sequence[RateLimitItem]) -> Allowance:
        return min([await self._hit(counters, caller, item) for item in items], key=_tightness)

    async def _hit(self, counters: Counters, caller: str, item: RateLimitItem) -> Allowance:
        is_granted = await counters.hit(item, caller)
        window = await counters.get_window_stats(item, caller)
        reset_s = max(1, math.ceil(window.reset_time - self._wall_clock()))
        return Allowance(is_granted, item.amount, item.get_expiry(), window.remaining, reset_s)


def _tightness(allowance: Allowance) -> tuple[bool, int]:
    return allowance.is_granted, allowance.remaining


@lru_cache(maxsize=256)
def _parsed(rates: str) -> tuple[RateLimitItem, ...]:
    return tuple(parse_many(rates))


def counted_here() -> Counters:
    return Counters(MemoryStorage())


def counted_in(redis: "Redis", url: str) -> Counters:
    """`url` is what `redis` was opened with."""
    pool: object = redis.connection_pool
    storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix=PREFIX, connection_pool=pool)  # type: ignore[arg-type]
    return Counters(storage)
