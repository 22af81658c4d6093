"""The Encoder port: questions that wait together are encoded together, off the event loop, and remembered."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.core.admission import Admission, DrainRate
from service.core.cache_keys import CacheKeys
from service.ports import Cache, Vector

# So few that a long one among them holds up the others little.
MAX_BATCH = 32

_Futures: TypeAlias = list[asyncio.Future[Vector]]

# A question waits for its vector in milliseconds. Of the time it has, it may wait so much at most: the rest is needed
# for what comes after, where it may have to wait again.
ADMISSION = Admission(max_queued=1_000, max_wait_share=0.1, unit="questions")


class TextEncoder(Protocol):
    """What makes the vectors, in whatever thread it is called."""

    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class QueryEncoder:
    """One forward pass at a time, since more only fight over the cores; each takes whatever waits by then.

    How questions happen to meet moves a vector by rounding errors only.
    """

    def __init__(self, encoder: TextEncoder, cache: Cache, keys: CacheKeys, clock: Callable[[], float]) -> None:
        self._encoder = encoder
        self._cache = cache
        self._keys = keys
        self._clock = clock
        self._num_bytes = encoder.dim * np.dtype(np.float32).itemsize
        self._drain = DrainRate()
        self._waiting: dict[str, _Futures] = {}
        self._task: asyncio.Task[None] | None = None

    def admit(self, *, deadline_s: float) -> None:
        """Raises OverloadedError where one more question would wait too long for its vector."""
        ADMISSION.check(
            amount=1, ahead=len(self._waiting), per_s=self._drain.per_s, time_left_s=deadline_s - self._clock()
        )

    async def encode_query(self, question: str, *, use_cache: bool = True) -> Vector:
        key = self._keys.embedding(question)
        found = (await self._cache.get_many("embedding", [key]))[0] if use_cache else None
        if found is not None and (known := self._vector(found)) is not None:
            return known
        vector = await self._computed(question)
        if use_cache:
            await self._cache.set_many("embedding", {key: vector.tobytes()})
        return vector

    def _vector(self, found: bytes) -> Vector | None:
        """None where it is none of this encoder's: of another length, or with something that is no number."""
        vector = np.frombuffer(found, dtype=np.float32) if len(found) == self._num_bytes else None
        return vector if vector is not None and bool(np.isfinite(vector).all()) else None

    def _computed(self, question: str) -> asyncio.Future[Vector]:
        """Its vector, once its turn has come; to cancel it takes the question back."""
        future: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(question, []).append(future)
        if self._task is None or self._task.done():
            self._drain.resume(self._clock())
            self._task = asyncio.create_task(self._encode_waiting())
        return future

    async def _encode_waiting(self) -> None:
        while batch := self._take():
            try:
                vectors = await asyncio.to_thread(self._encoder.encode, list(batch))
            except Exception as exc:  # noqa: BLE001 - whatever it is, it belongs to those who wait for it
                for future in _open(batch.values()):
                    future.set_exception(exc)
            else:
                for vector, futures in zip(vectors, batch.values(), strict=True):
                    for future in _open([futures]):
                        future.set_result(vector)
            # Passes that aren't full take longer per question: they show only what can be done at least.
            self._drain.observe(len(batch), self._clock(), is_saturated=len(batch) == MAX_BATCH)

    def _take(self) -> dict[str, _Futures]:
        """The questions that have waited longest, without those that nobody waits for any more."""
        batch: dict[str, _Futures] = {}
        while self._waiting and len(batch) < MAX_BATCH:
            question = next(iter(self._waiting))
            futures = self._waiting.pop(question)
            if _open([futures]):
                batch[question] = futures
        return batch


def _open(groups: Iterable[_Futures]) -> _Futures:
    """Those that somebody still waits for."""
    return [future for futures in groups for future in futures if not future.done()]
