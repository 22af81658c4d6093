"""The cache in the process."""

from hypothesis import given
from hypothesis import strategies as st

from service.adapters.memory_cache import MemoryCache
from tests.fakes import Clock

TTLS_S = {"answer": 10, "score": 100, "embedding": 0}


async def test_what_was_set_is_found_in_the_order_asked() -> None:
    cache = MemoryCache(TTLS_S, max_entries=10)
    await cache.set_many("score", {"a": b"1", "b": b"2"})
    assert await cache.get_many("score", ["b", "c", "a", "b"]) == [b"2", None, b"1", b"2"]


async def test_kinds_do_not_share_keys() -> None:
    cache = MemoryCache(TTLS_S, max_entries=10)
    await cache.set_many("score", {"a": b"score"})
    await cache.set_many("answer", {"a": b"answer"})
    assert await cache.get_many("score", ["a"]) == [b"score"]
    assert await cache.get_many("answer", ["a"]) == [b"answer"]


async def test_each_kind_lives_its_own_time() -> None:
    clock = Clock()
    cache = MemoryCache(TTLS_S, max_entries=10, clock=clock)
    await cache.set_many("answer", {"a": b"1"})
    await cache.set_many("score", {"a": b"2"})
    clock.advance(9)
    assert await cache.get_many("answer", ["a"]) == [b"1"]
    clock.advance(2)
    assert await cache.get_many("answer", ["a"]) == [None]
    assert await cache.get_many("score", ["a"]) == [b"2"]


async def test_kind_without_time_to_live_is_never_kept() -> None:
    cache = MemoryCache(TTLS_S, max_entries=10)
    await cache.set_many("embedding", {"a": b"1"})
    assert await cache.get_many("embedding", ["a"]) == [None]


async def test_least_recently_used_entry_goes_first() -> None:
    cache = MemoryCache(TTLS_S, max_entries=2)
    await cache.set_many("score", {"a": b"1", "b": b"2"})
    await cache.get_many("score", ["a"])
    await cache.set_many("score", {"c": b"3"})
    assert await cache.get_many("score", ["a", "b", "c"]) == [b"1", None, b"3"]


@given(st.lists(st.tuples(st.text(max_size=2), st.binary(max_size=2)), max_size=30), st.integers(1, 5))
async def test_it_stays_within_its_bound_and_never_lies(entries: list[tuple[str, bytes]], max_entries: int) -> None:
    cache, told = MemoryCache(TTLS_S, max_entries=max_entries), dict(entries)
    for key, value in entries:
        await cache.set_many("score", {key: value})
    found = [
        (key, value)
        for key, value in zip(told, await cache.get_many("score", list(told)), strict=True)
        if value is not None
    ]
    assert len(found) == min(len(told), max_entries)
    assert all(told[key] == value for key, value in found)


async def test_it_is_always_up_and_no_keys_are_no_values() -> None:
    cache = MemoryCache(TTLS_S, max_entries=1)
    assert cache.is_up()
    assert await cache.get_many("score", []) == []
