"""The Cache port in two tiers: this process first, then Redis, which costs a request a few milliseconds at most."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import TypeVar

import structlog

from service.adapters.redis_cache import RedisCache
from service.ports import Cache

log = structlog.get_logger(__name__)

Result = TypeVar("Result")
Read = asyncio.Task[list[bytes | None]]

# Patience is spent in slices: a pause of this process uses up one of them and not all.
_NUM_SLICES = 2
# About 2 ms of this process's time: a longer pipeline would keep the others waiting.
_MAX_ENTRIES_PER_PIPELINE = 128


class Backlog:
    """Entries that wait to be written, oldest first and each once. Where it is full, new ones are dropped."""

    def __init__(self, *, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: dict[tuple[str, str], bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, kind: str, values: Mapping[str, bytes]) -> int:
        """The number of entries for which there was no room."""
        new = {(kind, key): value for key, value in values.items()}
        self._entries.update({name: new.pop(name) for name in new.keys() & self._entries.keys()})
        num_kept = self._max_entries - len(self._entries)
        self._entries.update(islice(new.items(), num_kept))
        return max(len(new) - num_kept, 0)

    def take(self, max_entries: int) -> dict[str, dict[str, bytes]]:
        """The oldest entries, by kind and key; they wait no longer."""
        taken: dict[str, dict[str, bytes]] = {}
        for kind, key in list(islice(self._entries, max_entries)):
            taken.setdefault(kind, {})[key] = self._entries.pop((kind, key))
        return taken


class TieredCache:
    """Reads ask Redis only for what this process lacks; writes go to both, to Redis in the background.

    A request waits `patience_s` for Redis and then goes on with misses. The read itself goes on too, up to
    Redis's own timeout, and what it brings is found in this process the next time: a pause of this process
    costs no connection. After `max_slow_in_row` such reads one after another Redis gets a rest.

    An entry read back from Redis lives for its whole time again in this process; its key names everything that
    it was made from, so it is as good as before.
    """

    def __init__(
        self, memory: Cache, redis: RedisCache, *, patience_s: float, max_slow_in_row: int = 20,
        max_waiting: int = 10_000, count_slow: Callable[[], None] = lambda: None,
        count_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._memory = memory
        self._redis = redis
        self._patience_s = patience_s
        self._max_slow_in_row = max_slow_in_row
        self._count_slow = count_slow
        self._count_dropped = count_dropped
        self._num_slow_in_row = 0
        self._reads: set[Read] = set()
        self._backlog = Backlog(max_entries=max_waiting)
        self._is_woken = asyncio.Event()
        self._is_closing = False

    async def get_many(self, kind: str, keys: Sequence[str]) -> list[bytes | None]:
        values = await self._memory.get_many(kind, keys)
        missing = list(dict.fromkeys(key for key, value in zip(keys, values, strict=True) if value is None))
        if not missing or self._is_closing or not self._redis.is_up():
            return values
        found = dict(zip(missing, await self._ask(kind, missing), strict=True))
        return [found[key] if value is None else value for key, value in zip(keys, values, strict=True)]

    async def set_many(self, kind: str, values: Mapping[str, bytes]) -> None:
        await self._memory.set_many(kind, values)
        if not self._is_closing and self._redis.is_up():
            if num_dropped := self._backlog.add(kind, values):
                self._count_dropped(num_dropped)
            self._is_woken.set()

    def is_up(self) -> bool:
        return self._redis.is_up()

    async def run(self) -> None:
        """Write what waits, in the order it came; ends once `close` was called and all is written."""
        while self._backlog or not self._is_closing:
            if self._backlog:
                await self._guard(self._redis.set_all(self._backlog.take(_MAX_ENTRIES_PER_PIPELINE)), None)
            else:
                self._is_woken.clear()
                await self._is_woken.wait()

    def close(self) -> None:
        """Ask Redis for nothing more, and let `run` end when it has written what waits."""
        self._is_closing = True
        self._is_woken.set()

    async def cancel_reads(self) -> None:
        """End the reads that nobody waits for any more."""
        reads = set(self._reads)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    async def _ask(self, kind: str, keys: Sequence[str]) -> list[bytes | None]:
        """What Redis has for `keys`, or misses where it takes too long."""
        read = asyncio.create_task(self._read(kind, keys))
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)
        num_slow_before = self._num_slow_in_row
        if await self._is_quick(read):
            self._num_slow_in_row = 0
            return read.result()
        self._note_slow(num_slow_before)
        return [None] * len(keys)

    async def _is_quick(self, read: Read) -> bool:
        for _ in range(_NUM_SLICES):
            await asyncio.wait({read}, timeout=self._patience_s / _NUM_SLICES)  # cancels `read` in no case
            if read.done():
                return not read.cancelled()
        return False

    def _note_slow(self, num_slow_before: int) -> None:
        """Reads that were slow at the same time count as one: the same hiccup made them so.

        A rest leaves the count as it is, so that one more slow read after it is enough for the next.
        """
        self._count_slow()
        if self._num_slow_in_row == num_slow_before:
            self._num_slow_in_row += 1
        if self._num_slow_in_row >= self._max_slow_in_row and self._redis.is_up():
            self._redis.rest()
            log.warning("redis_slow", num_slow_in_row=self._num_slow_in_row, patience_s=self._patience_s)

    async def _read(self, kind: str, keys: Sequence[str]) -> list[bytes | None]:
        nothing: list[bytes | None] = [None] * len(keys)
        values = await self._guard(self._redis.get_many(kind, keys), nothing)
        found = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        await self._memory.set_many(kind, found)
        return values

    async def _guard(self, call: Awaitable[Result], otherwise: Result) -> Result:
        """The boundary of both kinds of task: what the client lets escape is said, and never ends the writer."""
        try:
            return await call
        except Exception:
            log.exception("redis_call_failed")
            self._redis.rest()
            return otherwise


@asynccontextmanager
async def open_tiers(
    memory: Cache, redis: RedisCache, *, patience_s: float, max_slow_in_row: int = 20, max_waiting: int = 10_000,
    close_timeout_s: float = 1.0, count_slow: Callable[[], None] = lambda: None,
    count_dropped: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[TieredCache]:  # fmt: skip
    """A TieredCache whose writer runs. Closing writes what waits, for `close_timeout_s` at most."""
    cache = TieredCache(
        memory, redis, patience_s=patience_s, max_slow_in_row=max_slow_in_row, max_waiting=max_waiting,
        count_slow=count_slow, count_dropped=count_dropped,
    )  # fmt: skip
    writer = asyncio.create_task(cache.run())
    try:
        yield cache
    finally:
        cache.close()
        try:
            await asyncio.wait({writer}, timeout=close_timeout_s)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await cache.cancel_reads()
