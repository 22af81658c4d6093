"""The gate before the engine: verified, up, down, up again."""

import asyncio

import httpx
import pytest

from service.adapters.engine import PROBE_TEXT, Engine, is_engines_fault, supervise
from service.adapters.prompt_files import read_golden
from service.errors import (
    CheckpointError,
    DeadlineError,
    EngineError,
    EngineOverloadedError,
    EngineRefusedError,
    RankRAGError,
    RequestError,
)
from tests.fake_vllm import FakeVllm, Logprobs, by_shared_words, prompt_tokenizer, until
from tests.fakes import Clock


def ranking_backwards(prompt: str) -> tuple[float, float]:
    true, false = by_shared_words(prompt)
    return false, true


def ranking_nothing(_: str) -> tuple[float, float]:
    return -1.0, -1.0


def another_tokenizer(request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(200, json={"tokens": [1, 2, 3]}) if request.url.path == "/tokenize" else None


def unreachable(_: httpx.Request) -> httpx.Response | None:
    raise httpx.ConnectError("connection refused")


def healthy(_: httpx.Request) -> httpx.Response | None:
    return None


async def test_right_checkpoint_is_verified_once_with_tokenizer_and_all_golden_pairs() -> None:
    vllm = FakeVllm()
    async with vllm.engine(is_checked=False) as engine:
        await engine.check()
        model = engine.model()
    assert (model.id, model.max_model_len) == ("fake", 512)
    assert vllm.paths == ["/v1/models", "/tokenize", "/v1/completions"]
    assert vllm.calls[1][1]["prompt"] == PROBE_TEXT
    assert len(vllm.completions[0]["prompt"]) == 2 * len(read_golden())


async def test_verified_engine_is_asked_for_one_canary_score_only() -> None:
    vllm = FakeVllm()
    async with vllm.engine() as engine:
        await engine.check()
        labels = [engine.labels.true, engine.labels.false]
    assert vllm.paths == ["/v1/completions"]
    assert len(vllm.completions[0]["prompt"]) == 1
    assert vllm.completions[0]["logprob_token_ids"] == labels


async def test_golden_pairs_of_the_service_are_ranked_by_what_they_share() -> None:
    async with FakeVllm(logprobs=by_shared_words).engine() as engine:
        assert engine.state.is_ready


async def test_unverified_engine_is_no_engine() -> None:
    async with FakeVllm().engine(is_checked=False) as engine:
        with pytest.raises(EngineError, match="not been verified"):
            engine.model()


async def test_wrong_tokenizer_is_a_checkpoint_error_that_says_what_to_set() -> None:
    async with FakeVllm(instead=another_tokenizer).engine(is_checked=False) as engine:
        with pytest.raises(CheckpointError, match="RANKRAG_CHECKPOINT"):
            await engine.check()
        with pytest.raises(EngineError, match="tokenizer"):
            engine.model()


@pytest.mark.parametrize("logprobs", [ranking_backwards, ranking_nothing])
async def test_checkpoint_that_cannot_rank_is_a_checkpoint_error(logprobs: Logprobs) -> None:
    vllm = FakeVllm(logprobs=logprobs)
    async with vllm.engine(is_checked=False) as engine:
        with pytest.raises(CheckpointError, match=f"{len(read_golden())} of {len(read_golden())} golden pairs"):
            await engine.check()
        assert not engine.state.is_ready


async def test_context_too_short_for_a_golden_pair_is_a_checkpoint_error() -> None:
    async with FakeVllm(max_model_len=8).engine(is_checked=False) as engine:
        with pytest.raises(CheckpointError, match="context"):
            await engine.check()


async def test_unreachable_engine_is_no_error_but_a_state_and_recovers() -> None:
    vllm = FakeVllm(instead=unreachable)
    async with vllm.engine(is_checked=False) as engine:
        await engine.check()
        with pytest.raises(EngineError, match="connection refused"):
            engine.model()
        vllm.instead = healthy
        await engine.check()
        assert engine.model().id == "fake"


async def test_engine_that_was_down_is_verified_again() -> None:
    vllm = FakeVllm()
    async with vllm.engine() as engine:
        vllm.instead = unreachable
        await engine.check()
        assert not engine.state.is_ready
        vllm.instead, vllm.logprobs = healthy, ranking_backwards
        with pytest.raises(CheckpointError):
            await engine.check()
        assert not engine.state.is_ready


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_engine_that_answers_with_an_error_is_down_with_the_reason(status: int) -> None:
    vllm = FakeVllm()
    async with vllm.engine() as engine:
        vllm.instead = lambda _: httpx.Response(status, json={"message": "the reason"})
        await engine.check()
        with pytest.raises(EngineError, match="the reason"):
            engine.model()


async def test_canary_that_does_not_come_in_time_means_down() -> None:
    vllm = FakeVllm()
    async with vllm.engine(timeout_s=0.05) as engine:
        vllm.delay_s = 60
        await asyncio.wait_for(engine.check(), 5)
        with pytest.raises(EngineError, match=r"no canary score within 0\.05 s"):
            engine.model()


async def test_every_check_is_observed() -> None:
    seen: list[bool] = []
    vllm = FakeVllm(instead=unreachable)
    async with vllm.client() as client:
        engine = Engine(client, prompt_tokenizer(), read_golden(), interval_s=1, timeout_s=5, observe=seen.append)
        await engine.check()
        vllm.instead = healthy
        await engine.check()
        await engine.check()
    assert seen == [False, True, True]


async def test_scoring_prompts_of_the_check_are_those_of_requests() -> None:
    vllm = FakeVllm()
    async with vllm.engine() as engine:
        await engine.check()
        golden = read_golden()[0]
        expected = engine.tokenizer.score_prompt(golden.question, "", golden.relevant, max_tokens=511)
    assert vllm.completions[0]["prompt"] == [list(expected.ids)]


async def test_engine_that_is_taken_out_is_verified_before_it_may_work_again() -> None:
    vllm = FakeVllm()
    async with vllm.engine() as engine:
        engine.take_out("connection reset")
        with pytest.raises(EngineError, match="connection reset"):
            engine.model()
        await engine.check()
        assert engine.model().id == "fake"
    assert vllm.paths == ["/v1/models", "/tokenize", "/v1/completions"]


async def test_canary_that_was_asked_before_the_engine_was_taken_out_does_not_let_it_back_in() -> None:
    vllm = FakeVllm(delay_s=0.01)
    async with vllm.engine() as engine:
        check = asyncio.create_task(engine.check())
        await until(lambda: vllm.calls)
        engine.take_out("connection reset")
        await check
        assert not engine.state.is_ready
        await asyncio.wait_for(engine.due(), 5)
        await engine.check()
        assert engine.state.is_ready


async def test_first_check_is_due_at_once_the_next_after_an_interval_and_at_once_when_taken_out() -> None:
    vllm = FakeVllm()
    async with vllm.client() as client:
        engine = Engine(client, prompt_tokenizer(), read_golden(), interval_s=60, timeout_s=5)
        await asyncio.wait_for(engine.due(), 5)
        await engine.check()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.due(), 0.05)
        engine.take_out("connection reset", check_now=False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.due(), 0.05)
        await engine.check()
        engine.take_out("connection reset")
        await asyncio.wait_for(engine.due(), 5)


async def test_engine_has_just_returned_for_one_interval() -> None:
    clock = Clock()
    async with FakeVllm().client() as client:
        engine = Engine(client, prompt_tokenizer(), read_golden(), interval_s=2, timeout_s=5, clock=clock)
        assert not engine.has_just_returned()
        await engine.check()
        assert engine.has_just_returned()
        clock.advance(2)
        await engine.check()
        assert not engine.has_just_returned()


async def test_slow_canary_is_spared_where_calls_are_answered() -> None:
    vllm = FakeVllm()
    async with vllm.engine(timeout_s=0.05) as engine:
        vllm.delay_s = 60
        check = asyncio.create_task(engine.check())
        await until(lambda: vllm.calls)
        engine.note_progress()
        await check
        assert engine.state.is_ready


async def test_refused_canary_is_spared_only_where_calls_are_answered() -> None:
    clock, vllm = Clock(), FakeVllm()
    async with vllm.client() as client:
        engine = Engine(client, prompt_tokenizer(), read_golden(), interval_s=2, timeout_s=5, clock=clock)
        await engine.check()
        vllm.instead = lambda _: httpx.Response(503, json={"message": "the queue is full"})
        engine.note_progress()
        clock.advance(1)
        await engine.check()
        assert engine.state.is_ready
        clock.advance(5)
        await engine.check()
        assert engine.state.reason == "vLLM answered 503: the queue is full"


@pytest.mark.parametrize("priority", [None, -2])
async def test_checks_carry_a_priority_only_where_vllm_schedules_by_it(priority: int | None) -> None:
    vllm = FakeVllm()
    async with vllm.client() as client:
        engine = Engine(client, prompt_tokenizer(), read_golden(), interval_s=1, timeout_s=5, priority=priority)
        await engine.check()
        await engine.check()
    assert [body.get("priority") for body in vllm.completions] == [priority, priority]
    assert ["priority" in body for body in vllm.completions] == [priority is not None] * 2


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (EngineError("connection reset"), True),
        (EngineOverloadedError("queue full"), False),
        (EngineRefusedError("prompt too long"), False),
        (DeadlineError("slow"), False),
        (RequestError("question too long"), False),
    ],
)
def test_only_failures_of_the_engine_itself_count_against_it(error: RankRAGError, is_fault: bool) -> None:
    assert is_engines_fault(error) is is_fault


@pytest.mark.parametrize("cause", [CheckpointError("wrong"), RuntimeError("bug")])
async def test_end_of_the_loop_is_told(cause: Exception) -> None:
    deaths: list[BaseException] = []

    async def loop() -> None:
        raise cause

    await supervise(loop, deaths.append)
    assert deaths == [cause]


async def test_loop_that_is_cancelled_did_not_die() -> None:
    deaths: list[BaseException] = []

    async def loop() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await supervise(loop, deaths.append)
    assert deaths == []
