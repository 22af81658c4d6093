"""Rates of callers, with and without Redis."""

import asyncio
from typing import Any, cast

import pytest
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from service.adapters.rate_limiter import SharedRates, counted_here, counted_in
from service.adapters.redis_cache import open_redis
from service.local_stack import free_port
from tests.fakes import Clock


class BrokenCounters:
    """A Redis that fails, or that takes its time."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.num_calls = 0

    async def hit(self, *_: object) -> bool:
        self.num_calls += 1
        if self.error is None:
            await asyncio.Event().wait()
        assert self.error is not None
        raise self.error

    @property
    def counters(self) -> SlidingWindowCounterRateLimiter:
        return cast(SlidingWindowCounterRateLimiter, self)


def rates_here(**more: Any) -> SharedRates:
    return SharedRates(None, counted_here(), timeout_s=1, retry_after_s=5, **more)


async def test_a_caller_has_its_requests_and_no_more() -> None:
    rates = rates_here()
    taken = [await rates.take("shop", "3/hour") for _ in range(5)]
    assert [allowance.is_granted for allowance in taken] == [True, True, True, False, False]
    assert [allowance.remaining for allowance in taken] == [2, 1, 0, 0, 0]
    assert {(allowance.limit, allowance.window_s) for allowance in taken} == {(3, 3600)}
    assert all(1 <= allowance.reset_s <= 3600 for allowance in taken)


async def test_callers_do_not_share() -> None:
    rates = rates_here()
    assert (await rates.take("shop", "1/hour")).is_granted
    assert (await rates.take("search", "1/hour")).is_granted
    assert not (await rates.take("shop", "1/hour")).is_granted


async def test_of_several_rates_the_tightest_counts() -> None:
    rates = rates_here()
    assert (await rates.take("shop", "100/hour;2/day")).limit == 2
    await rates.take("shop", "100/hour;2/day")
    refused = await rates.take("shop", "100/hour;2/day")
    assert (refused.is_granted, refused.limit, refused.window_s) == (False, 2, 86400)


async def test_there_is_room_again_after_the_time_that_was_told() -> None:
    rates = rates_here()
    while (refused := await rates.take("shop", "2/second")).is_granted:
        pass
    await asyncio.sleep(refused.reset_s + 0.1)
    assert (await rates.take("shop", "2/second")).is_granted


@pytest.mark.parametrize(
    "error", [RedisConnectionError("no"), ResponseError("OOM command not allowed"), OSError("no"), None]
)
@pytest.mark.threat("T07")
async def test_a_redis_that_fails_or_hangs_stops_nobody_and_is_left_alone(error: Exception | None) -> None:
    broken, clock, failures = BrokenCounters(error), Clock(), 0

    def count() -> None:
        nonlocal failures
        failures += 1

    rates = SharedRates(
        broken.counters, counted_here(), timeout_s=0.01, retry_after_s=5, clock=clock, count_failure=count
    )
    taken = [await rates.take("shop", "2/hour") for _ in range(3)]
    assert [allowance.is_granted for allowance in taken] == [True, True, False]
    assert (broken.num_calls, failures) == (1, 1)
    clock.advance(6)
    await rates.take("shop", "2/hour")
    assert (broken.num_calls, failures) == (2, 2)


async def test_a_redis_that_is_not_there_costs_its_timeout_at_most() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with open_redis(url, timeout_s=0.05) as redis:
        rates = SharedRates(counted_in(redis, url), counted_here(), timeout_s=0.05, retry_after_s=5)
        async with asyncio.timeout(2):
            assert (await rates.take("shop", "2/hour")).is_granted
