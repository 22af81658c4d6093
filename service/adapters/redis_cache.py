"""The Cache port in Redis, shared by all replicas of the service."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

# Redis does one thing at a time: more connections would not make it quicker.
MAX_CONNECTIONS = 8


class RedisCache:
    """Down or slow, Redis costs one timeout; then it is left alone for `retry_after_s`, and tried again."""

    def __init__(
        self, redis: "Redis", ttls_s: Mapping[str, int], *, retry_after_s: float,
        clock: Callable[[], float] = time.monotonic, count_failure: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._redis = redis
        self._ttls_s = ttls_s
        self._retry_after_s = retry_after_s
        self._clock = clock
        self._count_failure = count_failure
        self._closed_until_s = float("-inf")

    async def get_many(self, kind: str, keys: Sequence[str]) -> list[bytes | None]:
        nothing: list[bytes | None] = [None] * len(keys)
        if not keys or self._ttls_s[kind] == 0:
            return nothing
        return await self._try(lambda: self._read(kind, keys), nothing)

    async def set_many(self, kind: str, values: Mapping[str, bytes]) -> None:
        await self.set_all({kind: values})

    async def set_all(self, values: Mapping[str, Mapping[str, bytes]]) -> None:
        """Entries of several kinds, in one pipeline."""
        kept = {kind: entries for kind, entries in values.items() if entries and self._ttls_s[kind] > 0}
        if kept:
            await self._try(lambda: self._write(kept), None)

    def rest(self) -> None:
        """Leave Redis alone for `retry_after_s` from now on."""
        self._closed_until_s = self._clock() + self._retry_after_s

    def is_up(self) -> bool:
        """Whether the last call worked and Redis has no rest, or it is time to try again."""
        return self._clock() >= self._closed_until_s

    async def _read(self, kind: str, keys: Sequence[str]) -> list[bytes | None]:
        values = await self._redis.mget([_name(kind, key) for key in keys])
        return [value if isinstance(value, bytes) else None for value in values]

    async def _write(self, values: Mapping[str, Mapping[str, bytes]]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for kind, entries in values.items():
                for key, value in entries.items():
                    pipeline.set(_name(kind, key), value, ex=self._ttls_s[kind])
            await pipeline.execute()

    async def _try(self, call: Callable[[], Awaitable[Result]], otherwise: Result) -> Result:
        if not self.is_up():
            return otherwise
        try:
            return await call()
        except (RedisError, OSError, TimeoutError) as exc:
            self.rest()
            self._count_failure()
            log.warning("redis_unavailable", error=str(exc), retry_after_s=self._retry_after_s)
            return otherwise


@asynccontextmanager
async def open_redis(url: str, *, timeout_s: float) -> AsyncIterator["Redis"]:
    """A client that never waits longer than `timeout_s` and never retries by itself. It need not be up.

    Calls beyond `MAX_CONNECTIONS` wait for a connection, also no longer than `timeout_s`.
    """
    pool = BlockingConnectionPool.from_url(
        url, max_connections=MAX_CONNECTIONS, timeout=timeout_s, socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0),
    )  # fmt: skip
    redis = Redis.from_pool(pool)
    try:
        yield redis
    finally:
        await redis.aclose()


def _name(kind: str, key: str) -> str:
    return f"rankrag:{kind}:{key}"
