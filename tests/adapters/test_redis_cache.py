"""The cache in Redis, over a Redis that can fail."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.adapters.redis_cache import RedisCache, open_redis
from tests.fakes import Clock

TTLS_S = {"answer": 10, "score": 100, "embedding": 0}


def open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


@dataclass
class FakeRedis:
    """The two calls that the cache makes; `error` is what the next ones raise, a closed gate holds them."""

    entries: dict[str, bytes] = field(default_factory=dict)
    ttls_s: dict[str, int] = field(default_factory=dict)
    error: Exception | None = None
    num_calls: int = 0
    queued: list[tuple[str, bytes, int]] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    reads: asyncio.Event = field(default_factory=open_gate)
    writes: asyncio.Event = field(default_factory=open_gate)

    async def mget(self, names: Sequence[str]) -> list[bytes | None]:
        self.reach()
        self.asked.append(list(names))
        await self.reads.wait()
        return [self.entries.get(name) for name in names]

    def pipeline(self, *, transaction: bool) -> "FakeRedis":
        assert not transaction
        return self

    async def __aenter__(self) -> "FakeRedis":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.queued.clear()

    def set(self, name: str, value: bytes, *, ex: int) -> None:
        self.queued.append((name, value, ex))

    async def execute(self) -> None:
        self.reach()
        await self.writes.wait()
        for name, value, ttl_s in self.queued:
            self.entries[name], self.ttls_s[name] = value, ttl_s

    def reach(self) -> None:
        self.num_calls += 1
        if self.error:
            raise self.error


@dataclass
class World:
    redis: FakeRedis = field(default_factory=FakeRedis)
    clock: Clock = field(default_factory=Clock)
    failures: list[None] = field(default_factory=list)
    cache: RedisCache = field(init=False)

    def __post_init__(self) -> None:
        self.cache = RedisCache(
            cast(Redis, self.redis), TTLS_S, retry_after_s=5, clock=self.clock,
            count_failure=lambda: self.failures.append(None),
        )  # fmt: skip


async def test_what_was_set_is_found_in_the_order_asked() -> None:
    world = World()
    await world.cache.set_many("score", {"a": b"1", "b": b"2"})
    assert await world.cache.get_many("score", ["b", "c", "a"]) == [b"2", None, b"1"]
    assert world.redis.num_calls == 2


async def test_names_in_redis_say_whose_and_what_they_are() -> None:
    world = World()
    await world.cache.set_many("answer", {"a": b"1"})
    assert world.redis.entries == {"rankrag:answer:a": b"1"}


async def test_each_kind_has_its_own_time_to_live() -> None:
    world = World()
    await world.cache.set_many("answer", {"a": b"1"})
    await world.cache.set_many("score", {"a": b"1"})
    assert world.redis.ttls_s == {"rankrag:answer:a": 10, "rankrag:score:a": 100}


async def test_entries_of_several_kinds_go_in_one_pipeline() -> None:
    world = World()
    await world.cache.set_all({"answer": {"a": b"1"}, "score": {"b": b"2"}, "embedding": {"c": b"3"}})
    assert world.redis.ttls_s == {"rankrag:answer:a": 10, "rankrag:score:b": 100}
    assert world.redis.num_calls == 1


async def test_kind_without_time_to_live_and_empty_calls_do_not_reach_redis() -> None:
    world = World()
    await world.cache.set_many("embedding", {"a": b"1"})
    await world.cache.set_many("score", {})
    await world.cache.set_all({"embedding": {"a": b"1"}, "score": {}})
    assert await world.cache.get_many("embedding", ["a"]) == [None]
    assert await world.cache.get_many("score", []) == []
    assert world.redis.num_calls == 0


@pytest.mark.parametrize(
    "error",
    [
        RedisError(),
        RedisConnectionError("refused"),
        RedisTimeoutError("slow"),
        ResponseError("OOM"),
        OSError("no route"),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_failing_redis_costs_one_call_and_is_then_left_alone(error: Exception) -> None:
    world = World(FakeRedis(error=error))
    assert await world.cache.get_many("score", ["a", "b"]) == [None, None]
    assert await world.cache.get_many("score", ["a"]) == [None]
    await world.cache.set_many("score", {"a": b"1"})
    assert (world.redis.num_calls, len(world.failures), world.cache.is_up()) == (1, 1, False)


async def test_failing_write_is_silent_and_counted() -> None:
    world = World(FakeRedis(error=RedisTimeoutError("slow")))
    await world.cache.set_many("score", {"a": b"1"})
    assert (len(world.failures), world.cache.is_up()) == (1, False)


async def test_redis_is_tried_again_after_its_rest() -> None:
    world = World(FakeRedis({"rankrag:score:a": b"1"}, error=RedisConnectionError("refused")))
    await world.cache.get_many("score", ["a"])
    world.redis.error = None
    world.clock.advance(4.9)
    assert await world.cache.get_many("score", ["a"]) == [None]
    world.clock.advance(0.2)
    assert await world.cache.get_many("score", ["a"]) == [b"1"]
    assert world.cache.is_up()


async def test_redis_can_be_given_a_rest_without_a_failure() -> None:
    world = World(FakeRedis({"rankrag:score:a": b"1"}))
    world.cache.rest()
    assert await world.cache.get_many("score", ["a"]) == [None]
    assert (world.redis.num_calls, len(world.failures), world.cache.is_up()) == (0, 0, False)
    world.clock.advance(5)
    assert await world.cache.get_many("score", ["a"]) == [b"1"]


async def test_redis_that_still_fails_costs_one_call_each_rest() -> None:
    world = World(FakeRedis(error=RedisConnectionError("refused")))
    for _ in range(50):
        await world.cache.get_many("score", ["a"])
        world.clock.advance(1)
    assert world.redis.num_calls == 10


async def test_client_never_retries_and_need_not_be_up() -> None:
    async with open_redis("redis://127.0.0.1:1/0", timeout_s=0.2) as redis:
        world = World()
        cache = RedisCache(redis, TTLS_S, retry_after_s=5, clock=world.clock)
        assert await cache.get_many("score", ["a"]) == [None]
        assert not cache.is_up()
