"""All requests over all replicas: shared work, failures that stay where they belong, nothing left behind."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from service.core.admission import DrainRate
from service.errors import DeadlineError, EngineError, OverloadedError
from service.ports import Scores
from service.types import Passage, Priority
from tests.fake_vllm import FakeVllm, until
from tests.scoring_stack import Stack, scoring_stack

QUESTION = "How high is Mont Blanc?"


def passages(count: int, *, start: int = 0) -> list[Passage]:
    return [Passage(str(n), f"Mont Blanc is {n} metres high.") for n in range(start, start + count)]


async def score(stack: Stack, wanted: Sequence[Passage], *, question: str = QUESTION, **options: Any) -> Scores:
    deadline_s = time.monotonic() + options.pop("within_s", 5)
    return await stack.scorer.score(question, wanted, deadline_s=deadline_s, **{"use_cache": False, **options})


def num_prompts(vllm: FakeVllm) -> int:
    return sum(len(body["prompt"]) for body in vllm.completions)


async def test_the_same_pairs_of_many_requests_are_computed_once() -> None:
    vllm = FakeVllm(delay_s=0.02)
    async with scoring_stack(vllm) as stack:
        found = await asyncio.gather(*(score(stack, passages(6)) for _ in range(10)))
        assert stack.is_at_rest
    assert num_prompts(vllm) == 6
    assert len({scores.scores for scores in found}) == 1


async def test_a_request_joins_what_is_already_running() -> None:
    vllm = FakeVllm(delay_s=0.05)
    async with scoring_stack(vllm) as stack:
        first = asyncio.create_task(score(stack, passages(3)))
        await until(lambda: vllm.num_under_way)
        second = await score(stack, passages(4))
        assert second.scores[:3] == (await first).scores
    assert num_prompts(vllm) == 4


async def test_pairs_of_several_requests_share_a_call() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm) as stack:
        await asyncio.gather(*(score(stack, passages(2, start=10 * n)) for n in range(5)))
    assert num_prompts(vllm) == 10
    assert len(vllm.completions) < 5


async def test_joined_pairs_are_observed() -> None:
    joined: list[int] = []
    vllm = FakeVllm(delay_s=0.2)
    async with scoring_stack(vllm, observe_joined=joined.append) as stack:
        first = asyncio.create_task(score(stack, passages(3)))
        await until(lambda: vllm.num_under_way)
        await score(stack, passages(4))
        await first
    assert joined == [0, 3]


async def test_age_of_what_waits_is_that_of_the_oldest_by_class() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm, max_prompts_per_call=1, max_connections=1) as stack:
        vllm.delay_s = 60
        assert stack.dispatcher.waits_s() == {}
        begun_s = time.monotonic()
        old = asyncio.create_task(score(stack, passages(3), within_s=60, priority=Priority.BULK))
        await until(lambda: stack.scheduler.num_waiting_pairs == 2)
        await asyncio.sleep(0.05)
        young = asyncio.create_task(score(stack, passages(3, start=5), within_s=60, priority=Priority.ANSWER))
        await until(lambda: stack.scheduler.num_waiting_pairs == 5)
        waits_s, took_s = stack.dispatcher.waits_s(), time.monotonic() - begun_s
        assert waits_s.keys() == {Priority.BULK, Priority.ANSWER}
        assert 0 <= waits_s[Priority.ANSWER] < waits_s[Priority.BULK] - 0.04 < took_s
        for task in (old, young):
            task.cancel()
        await asyncio.wait([old, young])
        assert stack.dispatcher.waits_s() == {}


async def test_a_waiter_that_leaves_harms_no_other() -> None:
    joined: list[int] = []
    vllm = FakeVllm(delay_s=0.2)
    async with scoring_stack(vllm, observe_joined=joined.append) as stack:
        leaving = asyncio.create_task(score(stack, passages(3)))
        staying = asyncio.create_task(score(stack, passages(3)))
        await until(lambda: vllm.num_under_way and joined == [0, 3])
        leaving.cancel()
        scores = await staying
        assert stack.is_at_rest
    assert None not in scores.scores
    assert num_prompts(vllm) == 3


async def test_what_nobody_waits_for_any_more_is_aborted_and_never_begun() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm, max_prompts_per_call=1, max_connections=1) as stack:
        vllm.delay_s = 60
        leaving = asyncio.create_task(score(stack, passages(5)))
        await until(lambda: vllm.num_under_way)
        leaving.cancel()
        await until(lambda: vllm.num_under_way == 0)
        assert stack.is_at_rest
    assert num_prompts(vllm) == 1


async def test_many_who_leave_at_random_leave_nothing_behind_and_the_others_get_what_they_would_alone() -> None:
    rng = random.Random(7)
    vllm = FakeVllm(delay_s=0.002)
    async with scoring_stack(vllm, window_tokens=2000) as stack:
        expected = (await score(stack, passages(40))).scores

        async def caller(number: int) -> bool:
            start = rng.randrange(30)
            work = asyncio.create_task(score(stack, passages(10, start=start), within_s=30))
            if number % 3:
                await asyncio.sleep(rng.random() * 0.1)
                work.cancel()
            try:
                return (await work).scores == expected[start : start + 10]
            except asyncio.CancelledError:
                return True

        assert all(await asyncio.gather(*(caller(number) for number in range(300))))
        await until(lambda: vllm.num_under_way == 0)
        assert stack.is_at_rest


async def test_time_that_is_over_gives_the_scored_part_to_who_takes_it() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm, max_prompts_per_call=1, max_connections=1) as stack:
        vllm.delay_s = 0.05
        scores = await score(stack, passages(100), within_s=0.3, allow_partial=True)
        assert stack.is_at_rest
    num_scored = sum(found is not None for found in scores.scores)
    assert scores.is_partial
    assert 0 < num_scored < 100
    assert num_scored == scores.usage.pairs_scored
    assert None not in scores.scores[:num_scored]  # the retriever's best were asked for first


async def test_time_that_is_over_before_the_first_score_is_an_error_also_to_who_takes_a_part() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm) as stack:
        vllm.delay_s = 60
        with pytest.raises(DeadlineError):
            await score(stack, passages(3), within_s=0.05, allow_partial=True)
        assert stack.is_at_rest
    assert vllm.num_under_way == 0


async def test_a_failed_call_is_tried_once_on_another_replica() -> None:
    broken, sound = FakeVllm(), FakeVllm()
    async with scoring_stack(broken, sound) as stack:
        broken.instead = lambda _: httpx.Response(500)
        scores = await score(stack, passages(20))
        assert stack.is_at_rest
    assert None not in scores.scores
    assert num_prompts(sound) == 20


async def test_a_pair_that_fails_twice_is_told_and_nothing_is_guessed() -> None:
    both = FakeVllm(), FakeVllm()
    async with scoring_stack(*both) as stack:
        for vllm in both:
            vllm.instead = lambda _: httpx.Response(500)
        with pytest.raises(EngineError):
            await score(stack, passages(4))
        assert stack.is_at_rest
    assert num_prompts(both[0]) + num_prompts(both[1]) <= 8


async def test_work_of_a_replica_that_hangs_moves_to_the_other_when_it_is_taken_out() -> None:
    hung, sound = FakeVllm(), FakeVllm()
    async with scoring_stack(hung, sound) as stack:
        hung.delay_s = 60
        waiting = asyncio.create_task(score(stack, passages(20)))
        await until(lambda: hung.num_under_way)
        stack.replicas.suspect("http://vllm-0", "no canary score")
        scores = await waiting
        assert stack.is_at_rest
    assert None not in scores.scores


async def test_without_any_replica_those_who_wait_are_told_before_their_deadline() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm, max_prompts_per_call=1, max_connections=1) as stack:
        vllm.instead = lambda _: httpx.Response(500)
        begun_s = time.monotonic()
        with pytest.raises(EngineError):
            await score(stack, passages(4), within_s=30)
        with pytest.raises(EngineError):
            await score(stack, passages(4), within_s=30)
        assert stack.is_at_rest
    assert time.monotonic() - begun_s < 10


async def test_one_poisoned_pair_fails_its_own_request_only() -> None:
    vllm = FakeVllm(delay_s=0.01)

    def refuse_poison(request: httpx.Request) -> httpx.Response | None:
        asked = [vllm.tokenizer.decode(prompt) for prompt in json.loads(request.content)["prompt"]]
        return httpx.Response(400) if any("poison" in prompt for prompt in asked) else None

    async with scoring_stack(vllm) as stack:
        vllm.instead = refuse_poison
        results = await asyncio.gather(
            score(stack, [Passage("p", "poison")]),
            *(score(stack, passages(2, start=10 * n)) for n in range(3)),
            return_exceptions=True,
        )
        assert stack.is_at_rest
    assert isinstance(results[0], EngineError)
    assert [isinstance(result, Scores) for result in results[1:]] == [True] * 3


async def test_passages_keep_to_their_replica() -> None:
    first, second = FakeVllm(), FakeVllm()
    async with scoring_stack(first, second) as stack:
        await score(stack, passages(40))
        placed = [{text(vllm, prompt) for prompt in prompts(vllm)} for vllm in (first, second)]
        for vllm in (first, second):
            vllm.calls.clear()
        await score(stack, passages(40), question="Is it high?")
        again = [{text(vllm, prompt) for prompt in prompts(vllm)} for vllm in (first, second)]
    kept = sum(len(before & after) for before, after in zip(placed, again, strict=True))
    assert all(placed)
    assert kept >= 30  # all, but for those that the bound on the load moved


def prompts(vllm: FakeVllm) -> list[list[int]]:
    return [prompt for body in vllm.completions for prompt in body["prompt"]]


def text(vllm: FakeVllm, prompt: list[int]) -> str:
    """The part of a prompt that tells its passage."""
    return str(vllm.tokenizer.decode(prompt)).partition("User:")[0]


@pytest.mark.parametrize("passes", [True, False])
async def test_the_order_is_passed_on_where_vllm_knows_priorities(passes: bool) -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm, priority_scheduling=passes) as stack:
        await score(stack, passages(1), priority=Priority.BULK)
        await score(stack, passages(1, start=5), priority=Priority.ANSWER)
    sent = [body.get("priority") for body in vllm.completions]
    if passes:
        assert sent[0] > sent[1] >= 0
    else:
        assert sent == [None, None]


async def test_urgent_work_goes_before_bulk_that_came_first() -> None:
    vllm = FakeVllm(delay_s=0.005)
    async with scoring_stack(vllm, max_prompts_per_call=1, max_connections=1) as stack:
        bulk = asyncio.create_task(score(stack, passages(50), priority=Priority.BULK))
        await until(lambda: len(vllm.completions) >= 2)
        await score(stack, passages(2, start=100), priority=Priority.ANSWER)
        num_before = num_prompts(vllm)
        await bulk
    assert num_before < 12


async def test_what_cannot_be_done_in_time_is_refused_before_any_work() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm, max_queued_tokens=500, max_prompts_per_call=1, max_connections=1) as stack:
        vllm.delay_s = 0.05
        accepted = asyncio.create_task(score(stack, passages(6)))
        await until(lambda: vllm.num_under_way)
        begun_s = time.monotonic()
        with pytest.raises(OverloadedError) as caught:
            await score(stack, passages(6, start=50))
        assert time.monotonic() - begun_s < 0.05
        assert None not in (await accepted).scores
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1
    assert num_prompts(vllm) == 6


async def test_more_than_can_be_done_in_time_is_refused_but_to_who_takes_a_part() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm, max_prompts_per_call=1, max_connections=1) as stack:
        vllm.delay_s = 0.02
        first = asyncio.create_task(score(stack, passages(12)))  # by which the rate becomes known
        await until(lambda: stack.drain.per_s is not None)
        with pytest.raises(OverloadedError):
            await score(stack, passages(200, start=50), within_s=1.5)
        part = await score(stack, passages(200, start=50), within_s=1.5, allow_partial=True)
        assert None not in (await first).scores
        assert stack.is_at_rest
    assert part.is_partial


async def test_nothing_is_learned_of_the_engines_rate_from_calls_that_were_disturbed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else callers who hang up would make the engines look slow, and others be refused."""
    observed: list[int] = []
    monkeypatch.setattr(DrainRate, "observe", lambda _, num_tokens, *__, **___: observed.append(num_tokens))
    vllm = FakeVllm()
    async with scoring_stack(vllm) as stack:
        vllm.delay_s = 0.1
        stays = asyncio.create_task(score(stack, passages(2)))
        await until(lambda: vllm.num_under_way == 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await score(stack, passages(3, start=10))
        await stays
        assert observed == []
        usage = (await score(stack, passages(4, start=20))).usage
    assert observed == [usage.prompt_tokens]


async def test_the_end_of_the_service_is_told_to_everybody() -> None:
    vllm = FakeVllm()
    async with scoring_stack(vllm) as stack:
        vllm.delay_s = 60
        waiting = asyncio.create_task(score(stack, passages(3)))
        await until(lambda: vllm.num_under_way)
    with pytest.raises(EngineError, match="shutting down"):
        await waiting
    assert vllm.num_under_way == 0
