"""Questions meet in one forward pass, are remembered, and refused where they would wait too long."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pytest
from numpy.typing import NDArray

from service.adapters.memory_cache import MemoryCache
from service.adapters.query_encoder import MAX_BATCH, QueryEncoder
from service.core.cache_keys import CacheKeys
from service.errors import OverloadedError, RetrievalError
from tests.fakes import Clock

KEYS = CacheKeys(checkpoint="c", prompts="p", index="i", encoder="e")


@dataclass
class ThreeNumbers:
    """A model whose vectors are the text's length, three times. It ends when `may_end` is set."""

    dim: int = 3
    error: Exception | None = None
    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0
    batches: list[list[str]] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    may_end: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_end.set()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        self.threads.append(threading.get_ident())
        assert self.may_end.wait(5)
        self.clock.advance(self.seconds)
        if self.error:
            raise self.error
        return np.array([[len(text)] * 3 for text in texts], dtype=np.float32)


def encoder_of(model: ThreeNumbers, cache: MemoryCache | None = None) -> QueryEncoder:
    cache = cache or MemoryCache({"embedding": 60}, max_entries=10)
    return QueryEncoder(model, cache, KEYS, model.clock)


async def asked(encoder: QueryEncoder, questions: Sequence[str]) -> list[asyncio.Task[NDArray[np.float32]]]:
    """Tasks that wait for their vectors by now."""
    tasks = [asyncio.create_task(encoder.encode_query(question)) for question in questions]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_question_is_encoded_off_the_event_loop() -> None:
    model = ThreeNumbers()
    vector = await encoder_of(model).encode_query("four")
    assert vector.tolist() == [4, 4, 4]
    assert threading.get_ident() not in model.threads


async def test_known_question_is_not_encoded_again() -> None:
    model = ThreeNumbers()
    encoder = encoder_of(model)
    first, second = await encoder.encode_query("four"), await encoder.encode_query("four")
    assert first.tolist() == second.tolist()
    assert second.dtype == np.float32
    assert len(model.threads) == 1


async def test_without_the_cache_it_is_neither_read_nor_written() -> None:
    model = ThreeNumbers()
    encoder = encoder_of(model)
    await encoder.encode_query("four", use_cache=False)
    await encoder.encode_query("four", use_cache=True)
    await encoder.encode_query("four", use_cache=False)
    assert len(model.threads) == 3


@pytest.mark.parametrize("value", [b"", b"short", b"\0" * 8, b"\0" * 16, b"\xff" * 12])
@pytest.mark.threat("T23")
async def test_corrupted_cache_value_is_a_miss(value: bytes) -> None:
    cache = MemoryCache({"embedding": 60}, max_entries=10)
    await cache.set_many("embedding", {KEYS.embedding("four"): value})
    assert (await encoder_of(ThreeNumbers(), cache).encode_query("four")).tolist() == [4, 4, 4]


async def test_failure_reaches_the_caller_and_leaves_the_turn_free() -> None:
    model = ThreeNumbers(error=RetrievalError("out of memory"))
    encoder = encoder_of(model)
    with pytest.raises(RetrievalError):
        await encoder.encode_query("four")
    model.error = None
    assert len(await asyncio.wait_for(encoder.encode_query("four"), 5)) == 3


async def test_what_waits_meanwhile_is_encoded_together_and_each_gets_its_own() -> None:
    model = ThreeNumbers()
    model.may_end.clear()
    encoder = encoder_of(model)
    tasks = await asked(encoder, ["a", "bb", "ccc", "bb", "dddd"])
    model.may_end.set()
    assert [vector.tolist()[0] for vector in await asyncio.gather(*tasks)] == [1, 2, 3, 2, 4]
    assert [sorted(batch) for batch in model.batches] in ([["a"], ["bb", "ccc", "dddd"]], [["a", "bb", "ccc", "dddd"]])


async def test_no_pass_takes_more_than_its_share_and_the_first_come_first() -> None:
    model = ThreeNumbers()
    questions = [f"question {number}" for number in range(2 * MAX_BATCH + 5)]
    await asyncio.gather(*await asked(encoder_of(model), questions))
    assert max(map(len, model.batches)) <= MAX_BATCH
    assert list(chain.from_iterable(model.batches)) == questions


async def test_who_hangs_up_takes_the_question_back_and_nobody_else_s() -> None:
    model = ThreeNumbers()
    model.may_end.clear()
    encoder = encoder_of(model)
    (begun,) = await asked(encoder, ["begun"])
    gone, same, other = await asked(encoder, ["gone", "same", "same"])
    begun.cancel()
    gone.cancel()
    same.cancel()
    await asyncio.sleep(0)
    model.may_end.set()
    assert (await asyncio.wait_for(other, 5)).tolist() == [4, 4, 4]
    assert "gone" not in model.batches[-1]


async def test_one_failure_is_everybody_s_of_its_pass_and_of_no_other() -> None:
    model = ThreeNumbers(error=RetrievalError("out of memory"))
    encoder = encoder_of(model)
    found = await asyncio.gather(*await asked(encoder, ["a", "b"]), return_exceptions=True)
    assert [type(one) for one in found] == [RetrievalError, RetrievalError]
    model.error = None
    assert len(await encoder.encode_query("a")) == 3


async def test_too_long_a_queue_is_refused_for_who_has_little_time() -> None:
    model = ThreeNumbers(seconds=1.0)
    encoder = encoder_of(model)
    await asyncio.gather(*await asked(encoder, [f"first {number}" for number in range(3 * MAX_BATCH)]))
    model.may_end.clear()
    tasks = await asked(encoder, [f"then {number}" for number in range(3 * MAX_BATCH)])
    encoder.admit(deadline_s=model.clock() + 60)
    with pytest.raises(OverloadedError, match=r"questions wait already, for [23]\.\d s") as refused:
        encoder.admit(deadline_s=model.clock() + 9)
    assert refused.value.retry_after_s in (2, 3)
    model.may_end.set()
    await asyncio.gather(*tasks)
    encoder.admit(deadline_s=model.clock() + 0.01)
