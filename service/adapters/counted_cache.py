"""Any cache, with its look-ups counted by kind."""

from collections.abc import Mapping, Sequence

from prometheus_client import Counter

from service.ports import Cache


class CountedCache:
    """The Cache port around another cache."""

    def __init__(self, cache: Cache, lookups: Counter) -> None:
        self._cache = cache
        self._lookups = lookups

    async def get_many(self, kind: str, keys: Sequence[str]) -> list[bytes | None]:
        values = await self._cache.get_many(kind, keys)
        num_hits = sum(value is not None for value in values)
        self._lookups.labels(kind, "hit").inc(num_hits)
        self._lookups.labels(kind, "miss").inc(len(values) - num_hits)
        return values

    async def set_many(self, kind: str, values: Mapping[str, bytes]) -> None:
        await self._cache.set_many(kind, values)

    def is_up(self) -> bool:
        return self._cache.is_up()
