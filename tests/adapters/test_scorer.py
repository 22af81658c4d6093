"""Scoring many pairs: order, cache, calls, deadlines."""

import asyncio
import json
import math
import struct
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.adapters.memory_cache import MemoryCache
from service.adapters.scorer import VllmScorer, is_packed, pack, unpack
from service.adapters.tokenizer import PromptTokenizer
from service.errors import DeadlineError, EngineError, EngineOverloadedError, EngineRefusedError, RequestError
from service.types import Passage, Score
from tests.fake_vllm import FakeVllm, prompt_tokenizer, until
from tests.scoring_stack import KEYS, scoring_stack

LABELS = prompt_tokenizer().labels()
QUESTION = "How high is Mont Blanc?"
PASSAGES = [
    Passage("rhine", "The Rhine flows to the sea."),
    Passage("mont-blanc", "Mont Blanc is how high? 4,806 metres.", "Mont Blanc"),
    Passage("eiger", "The Eiger is high."),
]


@dataclass
class CountingCache(MemoryCache):
    """A memory cache that remembers what it was asked for."""

    asked: list[Sequence[str]] = field(default_factory=list)
    written: list[Mapping[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__({"score": 60}, max_entries=1000)

    async def get_many(self, kind: str, keys: Sequence[str]) -> list[bytes | None]:
        self.asked.append(keys)
        return await super().get_many(kind, keys)

    async def set_many(self, kind: str, values: Mapping[str, bytes]) -> None:
        self.written.append(values)
        await super().set_many(kind, values)


@asynccontextmanager
async def scorer_of(vllm: FakeVllm, cache: CountingCache | None = None, **options: Any) -> AsyncIterator[VllmScorer]:
    async with scoring_stack(vllm, cache=cache or CountingCache(), **options) as stack:
        yield stack.scorer


def soon() -> float:
    return time.monotonic() + 5


async def relevances(scorer: VllmScorer, passages: Sequence[Passage] = PASSAGES, **options: Any) -> list[float]:
    scored = await scorer.score(QUESTION, passages, deadline_s=soon(), **{"use_cache": True, **options})
    return [score.relevance for score in scored.scores if score is not None]


async def test_scores_are_in_the_order_of_the_passages() -> None:
    async with scorer_of(FakeVllm()) as scorer:
        forwards, backwards = await relevances(scorer), await relevances(scorer, PASSAGES[::-1], use_cache=False)
    assert forwards == backwards[::-1]
    assert sorted(forwards) == [forwards[0], forwards[2], forwards[1]]


async def test_usage_counts_tokens_and_pairs() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm) as scorer:
        usage = (await scorer.score(QUESTION, PASSAGES, deadline_s=soon(), use_cache=True)).usage
    assert usage.prompt_tokens == sum(map(len, vllm.completions[0]["prompt"]))
    assert (usage.completion_tokens, usage.pairs_scored, usage.pairs_cached) == (3, 3, 0)


async def test_equal_passages_are_scored_once() -> None:
    vllm = FakeVllm()
    twin = Passage("twin", PASSAGES[1].text, PASSAGES[1].title)
    async with scorer_of(vllm) as scorer:
        scored = await scorer.score(QUESTION, [*PASSAGES, twin], deadline_s=soon(), use_cache=False)
    assert len(vllm.completions[0]["prompt"]) == 3
    assert scored.scores[3] == scored.scores[1]
    assert scored.usage.pairs_scored == 3


async def test_known_scores_make_no_call_and_cost_nothing() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm) as scorer:
        first = await scorer.score(QUESTION, PASSAGES, deadline_s=soon(), use_cache=True)
        vllm.calls.clear()
        second = await scorer.score(QUESTION, PASSAGES, deadline_s=soon(), use_cache=True)
    assert vllm.calls == []
    assert second.scores == first.scores
    assert (second.usage.pairs_cached, second.usage.pairs_scored, second.usage.prompt_tokens) == (3, 0, 0)


async def test_only_unknown_pairs_are_scored() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm) as scorer:
        await scorer.score(QUESTION, PASSAGES[1:2], deadline_s=soon(), use_cache=True)
        vllm.calls.clear()
        scored = await scorer.score(QUESTION, PASSAGES, deadline_s=soon(), use_cache=True)
        alone = await relevances(scorer, use_cache=False)
    assert len(vllm.completions[0]["prompt"]) == 2
    assert (scored.usage.pairs_cached, scored.usage.pairs_scored) == (1, 2)
    assert [score.relevance for score in scored.scores if score is not None] == alone


async def test_scores_of_another_question_are_not_taken() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm) as scorer:
        await scorer.score("Where is the Rhine?", PASSAGES, deadline_s=soon(), use_cache=True)
        scored = await scorer.score(QUESTION, PASSAGES, deadline_s=soon(), use_cache=True)
    assert scored.usage.pairs_scored == 3


async def test_without_the_cache_it_is_neither_read_nor_written() -> None:
    cache = CountingCache()
    async with scorer_of(FakeVllm(), cache) as scorer:
        await relevances(scorer, use_cache=False)
    assert (cache.asked, cache.written) == ([], [])


@pytest.mark.parametrize(
    "value", [b"", b"short", b"x" * 17, struct.pack("<dd", math.nan, 1.0), struct.pack("<dd", 1.5, 1.0), b"\xff" * 16]
)
@pytest.mark.threat("T23")
async def test_corrupted_cache_value_is_a_miss(value: bytes) -> None:
    cache, vllm = CountingCache(), FakeVllm()
    await cache.set_many("score", {KEYS.score(QUESTION, PASSAGES[0]): value})
    async with scorer_of(vllm, cache) as scorer:
        scored = await scorer.score(QUESTION, PASSAGES[:1], deadline_s=soon(), use_cache=True)
    assert scored.usage.pairs_scored == 1
    assert scored.scores[0] is not None
    assert 0 <= scored.scores[0].relevance <= 1


@given(st.floats(0, 1), st.floats(0, 1))
def test_packed_score_comes_back_as_it_was(relevance: float, label_mass: float) -> None:
    value = pack(Score(relevance, label_mass))
    assert is_packed(value)
    assert unpack(value) == Score(relevance, label_mass)


async def test_no_passages_make_no_call() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm) as scorer:
        scored = await scorer.score(QUESTION, [], deadline_s=soon(), use_cache=True)
    assert (scored.scores, vllm.calls) == ((), [])


@settings(max_examples=15)
@given(count=st.integers(1, 12), max_prompts=st.integers(1, 5), max_tokens=st.integers(1, 1000))
async def test_pairs_are_cut_into_calls_within_the_limits(count: int, max_prompts: int, max_tokens: int) -> None:
    vllm = FakeVllm()
    passages = [Passage(str(number), f"Mont Blanc is {number} metres high.") for number in range(count)]
    async with scorer_of(vllm, max_prompts_per_call=max_prompts, max_tokens_per_call=max_tokens) as scorer:
        await relevances(scorer, passages)
    calls = [body["prompt"] for body in vllm.completions]
    assert sum(map(len, calls)) == count
    assert all(len(call) <= max_prompts for call in calls)
    assert all(sum(map(len, call)) <= max_tokens or len(call) == 1 for call in calls)


async def test_cut_calls_give_the_same_scores_as_one() -> None:
    async with scorer_of(FakeVllm()) as scorer:
        whole = await relevances(scorer)
    async with scorer_of(FakeVllm(), max_prompts_per_call=1) as scorer:
        assert await relevances(scorer) == whole


async def test_at_most_max_connections_calls_are_under_way() -> None:
    vllm = FakeVllm(delay_s=0.005)
    async with scorer_of(vllm, max_prompts_per_call=1, max_connections=2) as scorer:
        await relevances(scorer, [Passage(str(number), f"text {number}") for number in range(7)])
    assert len(vllm.completions) == 7
    assert vllm.most_under_way == 2


async def test_past_deadline_is_a_deadline_error_without_waiting() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm) as scorer:
        vllm.delay_s = 60
        begun_s = time.monotonic()
        with pytest.raises(DeadlineError):
            await scorer.score(QUESTION, PASSAGES, deadline_s=begun_s - 1, use_cache=False)
    assert time.monotonic() - begun_s < 5


async def test_slow_engine_is_a_deadline_error_at_the_deadline_and_nothing_is_remembered() -> None:
    vllm, cache = FakeVllm(), CountingCache()
    async with scorer_of(vllm, cache, max_prompts_per_call=1) as scorer:
        vllm.delay_s = 60
        begun_s = time.monotonic()
        with pytest.raises(DeadlineError):
            await scorer.score(QUESTION, PASSAGES, deadline_s=begun_s + 0.05, use_cache=True)
    assert 0.04 < time.monotonic() - begun_s < 5
    assert vllm.num_under_way == 0
    assert cache.written == []


def refusing(text: str, response: httpx.Response, tokenizer: Any) -> Any:
    """Answers with `response` to the call whose prompts hold `text`."""

    def instead(request: httpx.Request) -> httpx.Response | None:
        body = json.loads(request.content) if request.content else {}
        prompts = body.get("prompt", [])
        held = any(text in tokenizer.decode(prompt) for prompt in prompts)
        return response if held else None

    return instead


@pytest.mark.parametrize(
    ("status", "kind"), [(400, EngineRefusedError), (429, EngineOverloadedError), (500, EngineError)]
)
async def test_one_failing_call_fails_all_with_its_own_error(status: int, kind: type[EngineError]) -> None:
    vllm, cache = FakeVllm(), CountingCache()
    async with scorer_of(vllm, cache, max_prompts_per_call=1) as scorer:
        vllm.instead = refusing("Eiger", httpx.Response(status, json={"message": "no"}), vllm.tokenizer)
        with pytest.raises(EngineError) as caught:
            await scorer.score(QUESTION, PASSAGES, deadline_s=soon(), use_cache=True)
    assert type(caught.value) is kind
    assert cache.written == []


async def test_failed_caller_harms_no_other() -> None:
    vllm = FakeVllm(delay_s=0.01)
    async with scorer_of(vllm, max_prompts_per_call=1) as scorer:
        vllm.instead = refusing("Eiger", httpx.Response(500), vllm.tokenizer)
        results = await asyncio.gather(
            scorer.score(QUESTION, PASSAGES[2:], deadline_s=soon(), use_cache=False),
            scorer.score(QUESTION, PASSAGES[:2], deadline_s=soon(), use_cache=False),
            return_exceptions=True,
        )
    assert isinstance(results[0], EngineError)
    assert not isinstance(results[1], BaseException)
    assert len(results[1].scores) == 2


async def test_cancelled_caller_frees_its_places() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm, max_prompts_per_call=1, max_connections=1) as scorer:
        vllm.delay_s = 60
        caller = asyncio.create_task(scorer.score(QUESTION, PASSAGES, deadline_s=soon(), use_cache=False))
        await until(lambda: vllm.num_under_way)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        vllm.delay_s = 0
        assert len(await relevances(scorer, use_cache=False)) == 3


async def test_engine_that_was_never_verified_is_not_asked() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm, is_checked=False) as scorer:
        with pytest.raises(EngineError, match="not been verified"):
            await relevances(scorer)
    assert vllm.calls == []


def nan_body() -> str:
    logprobs = {f"token_id:{LABELS.true}": math.nan, f"token_id:{LABELS.false}": -1.0}
    choice = {"index": 0, "finish_reason": "length", "logprobs": {"top_logprobs": [logprobs]}}
    return json.dumps({"usage": {"prompt_tokens": 1}, "choices": [choice]})


async def test_logprob_that_is_not_a_number_fails_the_request() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm) as scorer:
        vllm.instead = lambda _: httpx.Response(200, text=nan_body())
        with pytest.raises(EngineError, match="not a number"):
            await relevances(scorer, PASSAGES[:1])


async def test_question_that_fills_the_context_is_the_requests_error() -> None:
    async with scorer_of(FakeVllm()) as scorer:
        with pytest.raises(RequestError) as caught:
            await scorer.score("long " * 2000, PASSAGES, deadline_s=soon(), use_cache=True)
    assert caught.value.field == "question"


async def test_prompt_leaves_room_for_the_one_token_that_is_sampled() -> None:
    vllm = FakeVllm()
    async with scorer_of(vllm) as scorer:
        await relevances(scorer, [Passage("long", "Mont Blanc is high. " * 500)])
    assert vllm.max_model_len - 5 <= len(vllm.completions[0]["prompt"][0]) <= vllm.max_model_len - 1


async def test_sizes_of_calls_are_observed() -> None:
    sizes: list[int] = []
    vllm = FakeVllm()
    async with scorer_of(vllm, max_prompts_per_call=2, observe_call=sizes.append) as scorer:
        await relevances(scorer)
    assert sorted(sizes) == [1, 2]


def texts(count: int) -> list[Passage]:
    return [Passage(str(number), f"text {number}") for number in range(count)]


def sizes_of_calls(vllm: FakeVllm) -> list[int]:
    return [len(body["prompt"]) for body in vllm.completions]


async def test_an_idle_service_begins_with_a_few_texts_and_a_busy_one_with_all() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm) as stack:
        await relevances(stack.scorer, texts(20), use_cache=False)
        assert sizes_of_calls(vllm) == [4, 16]
        vllm.calls.clear()
        vllm.delay_s = 0.2
        first = asyncio.create_task(relevances(stack.scorer, texts(20)[:3], use_cache=False))
        await until(lambda: vllm.num_under_way == 1)
        await relevances(stack.scorer, texts(20)[3:], use_cache=False)
        await first
    assert sizes_of_calls(vllm) == [3, 17]


async def test_what_is_tokenised_already_goes_in_one_call() -> None:
    vllm, tokenizer = FakeVllm(), prompt_tokenizer()
    known = [
        replace(passage, context_ids=ids)
        for passage, ids in zip(texts(20), tokenizer.context_ids(texts(20)), strict=True)
    ]
    async with scorer_of(vllm) as scorer:
        from_ids = await relevances(scorer, known, use_cache=False)
        assert sizes_of_calls(vllm) == [20]
        assert from_ids == await relevances(scorer, texts(20), use_cache=False)


def hold_back_all_but_the_first_batch(monkeypatch: pytest.MonkeyPatch, until_set: threading.Event) -> None:
    """Of `texts`: whatever is tokenised after the first of them waits."""
    tokenised = PromptTokenizer.score_prompts

    def late(self: PromptTokenizer, question: str, passages: Sequence[Passage], **options: Any) -> Any:
        if passages[0].id != "0":
            assert until_set.wait(5)
        return tokenised(self, question, passages, **options)

    monkeypatch.setattr(PromptTokenizer, "score_prompts", late)


async def test_what_is_tokenised_is_computed_while_the_rest_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm, is_computing = FakeVllm(), threading.Event()
    async with scorer_of(vllm) as scorer:
        vllm.instead = lambda _: is_computing.set()
        hold_back_all_but_the_first_batch(monkeypatch, is_computing)
        assert len(await relevances(scorer, texts(20), use_cache=False)) == 20


async def test_time_that_is_over_while_texts_are_tokenised_gives_what_was_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vllm, is_over = FakeVllm(), threading.Event()
    async with scoring_stack(vllm) as stack:
        hold_back_all_but_the_first_batch(monkeypatch, is_over)
        asyncio.get_running_loop().call_later(0.3, is_over.set)
        scored = await stack.scorer.score(
            QUESTION, texts(20), deadline_s=time.monotonic() + 0.15, use_cache=False, allow_partial=True
        )
        assert [score is not None for score in scored.scores] == [True] * 4 + [False] * 16
        assert scored.is_partial
        assert stack.is_at_rest
    assert sizes_of_calls(vllm) == [4]
