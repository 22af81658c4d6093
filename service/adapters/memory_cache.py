"""The Cache port in this process: bounded, each kind of entry with its own time to live."""

import time
from collections.abc import Callable, Mapping, Sequence

from cachetools import TLRUCache


class MemoryCache:
    """At most `max_entries` entries; the least recently used go first. A kind with TTL 0 is never kept."""

    def __init__(
        self, ttls_s: Mapping[str, float], *, max_entries: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttls_s = ttls_s
        self._entries: TLRUCache[tuple[str, str], bytes] = TLRUCache(
            maxsize=max_entries, ttu=lambda key, _, now: now + ttls_s[key[0]], timer=clock
        )

    async def get_many(self, kind: str, keys: Sequence[str]) -> list[bytes | None]:
        return [self._entries.get((kind, key)) for key in keys]

    async def set_many(self, kind: str, values: Mapping[str, bytes]) -> None:
        if self._ttls_s[kind] > 0:
            self._entries.update({(kind, key): value for key, value in values.items()})

    def is_up(self) -> bool:
        return True
