"""Whole answers, to bytes and back; and the counting of look-ups."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from service.adapters.answer_cache import CachedAnswers
from service.adapters.counted_cache import CountedCache
from service.adapters.memory_cache import MemoryCache
from service.core.cache_keys import CacheKeys
from service.metrics import Metrics
from service.types import Answer, Citation, Passage, Query, RetrievedPassage, Score, ScoredPassage, Timings, Usage

KEYS = CacheKeys(checkpoint="c", prompts="p", index="i", encoder="e")
QUERY = Query("How high?", top_n=2, top_k=1, max_tokens=8, deadline_s=9.0)
PASSAGE = Passage("a#0", "Élan 漢字", "T", {"s": "1", "i": 1, "f": 1.0, "b": True, "n": None})
ANSWER = Answer(
    text="4,806 metres",
    citations=(Citation(0, 12, "4,806 metres", ("a#0",)),),
    passages=(ScoredPassage(RetrievedPassage(PASSAGE, 0.1 + 0.2, 1), Score(1 / 3, 0.99), 1),),
    abstained=False,
    degraded=(),
    usage=Usage(10, 2, 2, 0),
    timings=Timings(encode_s=0.1, total_s=0.3),
)


def memory() -> MemoryCache:
    return MemoryCache({"answer": 60}, max_entries=10)


async def test_answer_comes_back_as_it_was() -> None:
    answers = CachedAnswers(memory(), KEYS)
    assert await answers.get(QUERY) is None
    await answers.put(QUERY, ANSWER)
    found = await answers.get(replace(QUERY, deadline_s=99.0))
    assert found == ANSWER
    assert [type(value) for value in found.passages[0].passage.metadata.values()] == [str, int, float, bool, type(None)]


async def test_unscored_passages_come_back_too() -> None:
    answers = CachedAnswers(memory(), KEYS)
    answer = replace(ANSWER, passages=(replace(ANSWER.passages[0], score=None),))
    await answers.put(QUERY, answer)
    assert await answers.get(QUERY) == answer


@pytest.mark.parametrize("value", [b"", b"{}", b"null", b"\xff", b'{"text": "of an older version"}'])
@pytest.mark.threat("T23")
async def test_value_that_cannot_be_read_is_a_miss(value: bytes) -> None:
    cache = memory()
    await cache.set_many("answer", {KEYS.answer(QUERY): value})
    assert await CachedAnswers(cache, KEYS).get(QUERY) is None


async def test_lookups_are_counted_by_kind_and_result() -> None:
    metrics = Metrics(CollectorRegistry())
    cache = CountedCache(memory(), metrics.cache)
    await cache.set_many("answer", {"a": b"1"})
    assert await cache.get_many("answer", ["a", "b", "c"]) == [b"1", None, None]
    counted = {
        result: metrics.registry.get_sample_value(
            "rankrag_cache_lookups_total", {"kind": "answer", "result": result}
        )
        for result in ("hit", "miss")
    }  # fmt: skip
    assert counted == {"hit": 1, "miss": 2}
    assert cache.is_up()
