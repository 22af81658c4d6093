"""The cache in two tiers, over a Redis that can be slow, stuck or dead."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from service.adapters.memory_cache import MemoryCache
from service.adapters.redis_cache import RedisCache, open_redis
from service.adapters.tiered_cache import Backlog, TieredCache, open_tiers
from tests.adapters.test_redis_cache import TTLS_S, FakeRedis
from tests.fakes import Clock
from tests.listening import HOST, listening

PATIENCE_S = 0.03
SLACK_S = 0.25  # what a busy machine may add to any wait
IN_REDIS = {"rankrag:score:a": b"1", "rankrag:score:b": b"2"}


@dataclass
class World:
    """A tiered cache over a fake Redis, and everything that it counted."""

    redis: FakeRedis = field(default_factory=lambda: FakeRedis(dict(IN_REDIS)))
    patience_s: float = PATIENCE_S
    max_slow_in_row: int = 3
    max_waiting: int = 10
    close_timeout_s: float = 0.05
    clock: Clock = field(default_factory=Clock)
    failures: list[None] = field(default_factory=list)
    slow: list[None] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    memory: MemoryCache = field(init=False)

    def __post_init__(self) -> None:
        self.memory = MemoryCache(TTLS_S, max_entries=100)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TieredCache]:
        redis = RedisCache(
            cast(Redis, self.redis), TTLS_S, retry_after_s=5, clock=self.clock,
            count_failure=lambda: self.failures.append(None),
        )  # fmt: skip
        async with open_tiers(
            self.memory, redis, patience_s=self.patience_s, max_slow_in_row=self.max_slow_in_row,
            max_waiting=self.max_waiting, close_timeout_s=self.close_timeout_s,
            count_slow=lambda: self.slow.append(None), count_dropped=self.dropped.append,
        ) as cache:  # fmt: skip
            yield cache


@pytest.fixture(autouse=True)
async def nothing_is_left_running() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110  # nothing tells when a background task of another part is done
            await asyncio.sleep(0.001)


async def test_redis_is_asked_once_and_only_for_what_this_process_lacks() -> None:
    world = World()
    await world.memory.set_many("score", {"here": b"0"})
    async with world.open() as cache:
        assert await cache.get_many("score", ["b", "here", "c", "a", "b"]) == [b"2", b"0", None, b"1", b"2"]
        assert world.redis.asked == [[f"rankrag:score:{key}" for key in "bca"]]
        assert await cache.get_many("score", ["a", "b", "here"]) == [b"1", b"2", b"0"]
    assert world.redis.num_calls == 1


async def test_no_keys_and_known_keys_ask_nothing() -> None:
    world = World()
    async with world.open() as cache:
        await world.memory.set_many("score", {"a": b"0"})
        assert await cache.get_many("score", []) == []
        assert await cache.get_many("score", ["a"]) == [b"0"]
    assert world.redis.num_calls == 0


async def test_what_is_set_is_found_at_once_and_goes_to_redis_in_one_pipeline() -> None:
    world = World(FakeRedis())
    async with world.open() as cache:
        await cache.set_many("score", {"a": b"1", "b": b"2"})
        await cache.set_many("answer", {"a": b"3"})
        assert await cache.get_many("answer", ["a"]) == [b"3"]
        await until(lambda: bool(world.redis.entries))
    assert world.redis.ttls_s == {"rankrag:score:a": 100, "rankrag:score:b": 100, "rankrag:answer:a": 10}
    assert world.redis.num_calls == 1


async def test_many_entries_go_in_several_pipelines() -> None:
    world = World(FakeRedis(), max_waiting=1000)
    async with world.open() as cache:
        await cache.set_many("score", {str(number): b"1" for number in range(300)})
        await until(lambda: len(world.redis.entries) == 300)
    assert world.redis.num_calls == 3


async def test_kind_without_time_to_live_is_kept_nowhere() -> None:
    world = World(FakeRedis())
    async with world.open() as cache:
        await cache.set_many("embedding", {"a": b"1"})
        assert await cache.get_many("embedding", ["a"]) == [None]
    assert world.redis.num_calls == 0


async def test_slow_redis_costs_its_patience_is_counted_and_fills_this_process_later() -> None:
    world = World()
    world.redis.reads.clear()
    async with world.open() as cache:
        begun = time.monotonic()
        assert await cache.get_many("score", ["a", "x"]) == [None, None]
        assert PATIENCE_S * 0.9 <= time.monotonic() - begun <= PATIENCE_S + SLACK_S
        assert (len(world.slow), len(world.failures), cache.is_up()) == (1, 0, True)
        world.redis.reads.set()
        await asyncio.sleep(0.01)
        assert await cache.get_many("score", ["a"]) == [b"1"]
        assert (world.redis.num_calls, len(world.slow)) == (1, 1)


async def test_a_pause_of_this_process_does_not_make_redis_slow() -> None:
    """The pause is longer than the patience, but it is not Redis that was waited for."""
    world = World(patience_s=0.3)
    world.redis.reads.clear()
    async with world.open() as cache:
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, 0.4)
        loop.call_later(0.44, world.redis.reads.set)
        assert await cache.get_many("score", ["a"]) == [b"1"]
    assert not world.slow


async def test_redis_slow_many_times_in_a_row_gets_a_rest_and_then_one_trial() -> None:
    world = World()
    world.redis.reads.clear()
    async with world.open() as cache:
        for _ in range(10):
            assert await cache.get_many("score", ["a"]) == [None]
        assert (len(world.slow), world.redis.num_calls, cache.is_up()) == (3, 3, False)
        world.clock.advance(5)
        for _ in range(10):
            assert await cache.get_many("score", ["a"]) == [None]
        assert (len(world.slow), world.redis.num_calls, len(world.failures)) == (4, 4, 0)


async def test_a_quick_read_between_slow_ones_ends_their_row() -> None:
    world = World(max_slow_in_row=2)
    async with world.open() as cache:
        for number in range(3):
            world.redis.reads.clear()
            assert await cache.get_many("score", [f"slow {number}"]) == [None]
            world.redis.reads.set()
            assert await cache.get_many("score", ["b", "x"]) == [b"2", None]
    assert (len(world.slow), cache.is_up()) == (3, True)


async def test_reads_that_were_slow_together_are_one_in_the_row() -> None:
    world = World()
    world.redis.reads.clear()
    async with world.open() as cache:
        assert await asyncio.gather(*[cache.get_many("score", ["a"]) for _ in range(10)]) == [[None]] * 10
        assert (len(world.slow), cache.is_up()) == (10, True)


async def test_a_cancelled_caller_leaves_the_read_to_go_on() -> None:
    world = World(patience_s=5)
    world.redis.reads.clear()
    async with world.open() as cache:
        caller = asyncio.create_task(cache.get_many("score", ["a"]))
        await until(lambda: world.redis.num_calls == 1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        world.redis.reads.set()
        await asyncio.sleep(0.01)
        assert await world.memory.get_many("score", ["a"]) == [b"1"]


async def test_failing_redis_is_left_alone_but_this_process_still_remembers() -> None:
    world = World(FakeRedis(error=RedisConnectionError("refused")))
    async with world.open() as cache:
        assert await cache.get_many("score", ["a"]) == [None]
        await cache.set_many("score", {"a": b"1"})
        assert await cache.get_many("score", ["a", "b"]) == [b"1", None]
        assert (world.redis.num_calls, len(world.failures), len(world.slow), cache.is_up()) == (1, 1, 0, False)
    assert world.redis.num_calls == 1


async def test_what_the_client_should_never_raise_costs_one_call_and_not_the_writer() -> None:
    world = World(FakeRedis(error=ValueError("a bug")))
    async with world.open() as cache:
        assert await cache.get_many("score", ["a"]) == [None]
        assert not cache.is_up()
        world.clock.advance(5)
        await cache.set_many("score", {"a": b"1"})
        await until(lambda: world.redis.num_calls == 2)
        world.redis.error = None
        world.clock.advance(5)
        await cache.set_many("score", {"b": b"2"})
        await until(lambda: world.redis.entries == {"rankrag:score:b": b"2"})


async def test_a_stuck_writer_delays_nobody_and_what_is_too_much_is_dropped_and_counted() -> None:
    world = World(FakeRedis())
    world.redis.writes.clear()
    async with world.open() as cache:
        await cache.set_many("score", {"first": b"0"})
        await until(lambda: world.redis.num_calls == 1)
        begun = time.monotonic()
        for number in range(25):
            await cache.set_many("score", {str(number): b"1"})
        assert time.monotonic() - begun <= SLACK_S
        assert sum(world.dropped) == 15
        assert await cache.get_many("score", ["24"]) == [b"1"]
        world.redis.writes.set()
        await until(lambda: len(world.redis.entries) == 11)
    assert world.redis.num_calls == 2


async def test_closing_writes_what_waits() -> None:
    world = World(FakeRedis())
    async with world.open() as cache:
        await cache.set_many("score", {"a": b"1"})
    assert world.redis.entries == {"rankrag:score:a": b"1"}


async def test_closing_gives_up_a_stuck_redis_in_time() -> None:
    world = World()
    world.redis.reads.clear()
    world.redis.writes.clear()
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(world.open())
        await cache.set_many("score", {"x": b"1"})
        await cache.get_many("score", ["a"])
        begun = time.monotonic()
    assert time.monotonic() - begun <= world.close_timeout_s + SLACK_S
    assert world.redis.entries == IN_REDIS


async def test_a_closed_cache_asks_redis_for_nothing() -> None:
    world = World()
    async with world.open() as cache:
        pass
    await cache.set_many("score", {"x": b"1"})
    assert await cache.get_many("score", ["x", "a"]) == [b"1", None]
    assert world.redis.num_calls == 0


async def test_whoever_still_reads_at_closing_gets_misses() -> None:
    world = World(patience_s=5)
    world.redis.reads.clear()
    async with world.open() as cache:
        caller = asyncio.create_task(cache.get_many("score", ["a"]))
        await until(lambda: world.redis.num_calls == 1)
    assert await caller == [None]


async def test_a_dead_redis_costs_a_request_its_patience_and_is_then_left_alone() -> None:
    """A real socket: it takes connections and never says a word."""
    num_connections, failures, slow = 0, list[None](), list[None]()

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        await reader.read()

    async with listening(say_nothing) as port, open_redis(f"redis://{HOST}:{port}/0", timeout_s=0.2) as client:
        redis = RedisCache(client, TTLS_S, retry_after_s=60, count_failure=lambda: failures.append(None))
        memory = MemoryCache(TTLS_S, max_entries=10)
        async with open_tiers(memory, redis, patience_s=0.02, count_slow=lambda: slow.append(None)) as cache:
            begun = time.monotonic()
            assert await cache.get_many("score", ["a"]) == [None]
            assert time.monotonic() - begun <= 0.02 + SLACK_S
            await until(lambda: not cache.is_up())
            assert (num_connections, len(failures), len(slow)) == (1, 1, 1)
            for _ in range(5):
                await cache.set_many("score", {"b": b"1"})
                assert await cache.get_many("score", ["a", "b"]) == [None, b"1"]
        assert (num_connections, len(failures), len(slow)) == (1, 1, 1)


Entries = dict[str, bytes]
ENTRIES = st.dictionaries(st.sampled_from("abcdefgh"), st.binary(max_size=1), max_size=6)


@given(st.lists(st.tuples(st.sampled_from(["score", "answer"]), ENTRIES), max_size=8), st.integers(0, 6))
def test_backlog_keeps_the_oldest_with_their_newest_values(added: list[tuple[str, Entries]], max_entries: int) -> None:
    backlog, told, num_dropped, num_expected = Backlog(max_entries=max_entries), dict[tuple[str, str], bytes](), 0, 0
    for kind, values in added:
        num_dropped += backlog.add(kind, values)
        for key, value in values.items():
            if (kind, key) in told or len(told) < max_entries:
                told[kind, key] = value
            else:
                num_expected += 1
    assert (len(backlog), num_dropped) == (len(told), num_expected)
    taken = backlog.take(100)
    assert {(kind, key): value for kind, values in taken.items() for key, value in values.items()} == told
    assert len(backlog) == 0


@given(ENTRIES, st.integers(1, 4))
def test_backlog_is_taken_piece_by_piece_in_order(values: Entries, max_entries: int) -> None:
    backlog, taken = Backlog(max_entries=10), list[tuple[str, bytes]]()
    backlog.add("score", values)
    while backlog:
        piece = backlog.take(max_entries)["score"]
        assert 0 < len(piece) <= max_entries
        taken += piece.items()
    assert taken == list(values.items())
