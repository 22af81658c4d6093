"""Answers from vLLM."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from service.adapters.generator import VllmGenerator
from service.adapters.replicas import Replicas
from service.errors import DeadlineError, EngineError, EngineRefusedError, RequestError
from service.ports import Piece, Rewritten
from service.types import Passage, Turn, Usage
from tests.fake_vllm import FakeVllm, fake_replicas, sse
from tests.fakes import Clock, rankrag_prompts

QUESTION = "How high is Mont Blanc?"
PASSAGES = [Passage("a", "It rises to 4,806 metres.", "Mont Blanc"), Passage("b", "A river.", "Rhine")]


Failure = Callable[[httpx.Request], httpx.Response | None]


def nothing_else() -> dict[str, int]:
    return {}


def connection_refused(_: httpx.Request) -> httpx.Response | None:
    raise httpx.ConnectError("connection refused")


def out_of_memory(_: httpx.Request) -> httpx.Response | None:
    return httpx.Response(500, json={"message": "CUDA out of memory"})


def nonsense(_: httpx.Request) -> httpx.Response | None:
    return httpx.Response(200, text=sse("nonsense"), headers={"Content-Type": "text/event-stream"})


async def consume(generator: VllmGenerator, passages: list[Passage] = PASSAGES) -> list[Piece]:
    return [piece async for piece in generator.generate(QUESTION, passages, max_tokens=16, deadline_s=109.0)]


async def answer(replicas: Replicas, load: dict[str, int] | None = None) -> list[Piece]:
    return await consume(VllmGenerator(replicas, load=lambda: load or {}, clock=Clock()))


async def generate(
    vllm: FakeVllm, passages: list[Passage] = PASSAGES, question: str = QUESTION, clock: Clock | None = None,
    is_checked: bool = True,
) -> list[Piece]:  # fmt: skip
    clock = clock or Clock()
    async with fake_replicas(vllm, is_checked=is_checked) as replicas:
        generator = VllmGenerator(replicas, load=nothing_else, clock=clock)
        pieces = generator.generate(question, passages, max_tokens=16, deadline_s=109.0)
        return [piece async for piece in pieces]


async def test_answer_comes_piece_by_piece_with_its_usage_last() -> None:
    vllm = FakeVllm()
    pieces = await generate(vllm)
    num_tokens = len(vllm.completions[0]["prompt"])
    assert pieces == [Piece(" 4,806"), Piece(" metres"), Piece("", Usage(num_tokens, 2))]


async def test_prompt_is_that_of_the_passages_in_their_order() -> None:
    vllm = FakeVllm()
    await generate(vllm)
    texts = ["Mont Blanc. It rises to 4,806 metres.", "Rhine. A river."]
    assert vllm.tokenizer.decode(vllm.completions[0]["prompt"]) == rankrag_prompts().answer_prompt(QUESTION, texts).text
    assert (vllm.completions[0]["max_tokens"], vllm.completions[0]["stop"]) == (16, ["\n"])


async def test_cut_context_is_told_and_leaves_room_for_the_answer() -> None:
    vllm = FakeVllm()
    pieces = await generate(vllm, [Passage("long", "Mont Blanc is high. " * 500)])
    assert all(piece.is_context_cut for piece in pieces)
    assert len(vllm.completions[0]["prompt"]) <= vllm.max_model_len - 16


async def test_piece_after_the_deadline_is_a_deadline_error() -> None:
    clock = Clock(110.0)
    with pytest.raises(DeadlineError):
        await generate(FakeVllm(), clock=clock)


async def test_engine_that_was_never_verified_is_not_asked() -> None:
    vllm = FakeVllm()
    with pytest.raises(EngineError, match="not been verified"):
        await generate(vllm, is_checked=False)
    assert vllm.calls == []


async def test_question_that_fills_the_context_is_the_requests_error() -> None:
    with pytest.raises(RequestError):
        await generate(FakeVllm(), question="why " * 2000)


async def test_refusal_of_the_engine_reaches_the_caller() -> None:
    vllm = FakeVllm()
    async with fake_replicas(vllm) as replicas:
        vllm.instead = lambda _: httpx.Response(500, json={"message": "CUDA out of memory"})
        with pytest.raises(EngineError, match="CUDA out of memory"):
            await answer(replicas)


# Several replicas


async def test_answer_comes_from_the_replica_with_the_least_to_do() -> None:
    vllms = [FakeVllm() for _ in range(3)]
    load = {"http://vllm-0": 500, "http://vllm-1": 100, "http://vllm-2": 101}
    async with fake_replicas(*vllms) as replicas:
        await answer(replicas, load)
    assert [len(vllm.completions) for vllm in vllms] == [0, 1, 0]


async def test_replica_that_nothing_is_known_of_has_nothing_to_do() -> None:
    vllms = [FakeVllm() for _ in range(2)]
    async with fake_replicas(*vllms) as replicas:
        await answer(replicas, {"http://vllm-0": 1})
    assert [len(vllm.completions) for vllm in vllms] == [0, 1]


async def test_answers_under_way_count_as_load_until_they_are_over() -> None:
    vllms = [FakeVllm(delay_s=0.01) for _ in range(2)]
    async with fake_replicas(*vllms) as replicas:
        generator = VllmGenerator(replicas, load=nothing_else, clock=Clock())
        for num_expected in (2, 4):
            await asyncio.gather(*(consume(generator) for _ in range(4)))
            assert [len(vllm.completions) for vllm in vllms] == [num_expected] * 2
        await consume(generator)
        await consume(generator)
    assert [len(vllm.completions) for vllm in vllms] == [6, 4]


@pytest.mark.parametrize("failure", [connection_refused, out_of_memory, nonsense])
async def test_answer_that_fails_before_its_first_piece_comes_from_another_replica(failure: Failure) -> None:
    bad, good = FakeVllm(), FakeVllm()
    async with fake_replicas(bad, good) as replicas:
        bad.instead = failure
        assert "".join(piece.text for piece in await answer(replicas)) == " 4,806 metres"
        assert list(replicas.ready()) == ["http://vllm-1"]


async def test_answer_is_begun_twice_at_most() -> None:
    vllms = [FakeVllm() for _ in range(3)]
    async with fake_replicas(*vllms) as replicas:
        for vllm in vllms:
            vllm.instead = connection_refused
        with pytest.raises(EngineError, match="connection refused"):
            await answer(replicas)
        assert list(replicas.ready()) == ["http://vllm-2"]
    assert [len(vllm.completions) for vllm in vllms] == [1, 1, 0]


async def test_answer_is_not_begun_again_after_its_first_piece() -> None:
    broken, other = FakeVllm(), FakeVllm()
    async with fake_replicas(broken, other) as replicas:
        text = sse({"choices": [{"index": 0, "text": " 4"}]})
        broken.instead = lambda _: httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})
        seen: list[Piece] = []
        with pytest.raises(EngineError, match="before it was complete"):
            async for piece in VllmGenerator(replicas, load=nothing_else, clock=Clock()).generate(
                QUESTION, PASSAGES, max_tokens=16, deadline_s=109.0
            ):
                seen += [piece]
        assert seen == [Piece(" 4")]
        assert list(replicas.ready()) == ["http://vllm-1"]
    assert other.completions == []


async def test_overloaded_replica_is_spared_and_another_answers() -> None:
    full, other = FakeVllm(), FakeVllm()
    async with fake_replicas(full, other) as replicas:
        full.instead = lambda _: httpx.Response(503, json={"message": "queue full"})
        assert await answer(replicas)
        assert len(replicas.ready()) == 2
    assert len(other.completions) == 1


async def test_request_that_is_refused_is_refused_everywhere() -> None:
    vllm, other = FakeVllm(), FakeVllm()
    async with fake_replicas(vllm, other) as replicas:
        vllm.instead = lambda _: httpx.Response(400, json={"message": "too long"})
        with pytest.raises(EngineRefusedError, match="too long"):
            await answer(replicas)
        assert len(replicas.ready()) == 2
    assert other.completions == []


async def test_lack_of_time_is_not_the_replicas_fault() -> None:
    async with fake_replicas(FakeVllm(), FakeVllm()) as replicas:
        generator = VllmGenerator(replicas, load=nothing_else, clock=Clock(110.0))
        with pytest.raises(DeadlineError):
            await consume(generator)
        assert len(replicas.ready()) == 2


async def test_prompt_fits_every_ready_replica() -> None:
    vllms = FakeVllm(max_model_len=512), FakeVllm(max_model_len=300)
    async with fake_replicas(*vllms) as replicas:
        await consume(
            VllmGenerator(replicas, load=nothing_else, clock=Clock()), [Passage("long", "Mont Blanc. " * 500)]
        )
    assert len(vllms[0].completions[0]["prompt"]) <= 300 - 16


@pytest.mark.parametrize(("is_on", "priority"), [(True, -1), (False, None)])
async def test_answers_are_more_urgent_than_scores_where_vllm_schedules_by_priority(
    is_on: bool, priority: int | None
) -> None:
    vllm = FakeVllm()
    async with fake_replicas(vllm, priority_scheduling=is_on) as replicas:
        await answer(replicas)
    assert vllm.completions[0].get("priority") == priority
    assert ("priority" in vllm.completions[0]) is is_on


HISTORY = [Turn("user", "Which mountain is the highest?"), Turn("assistant", "Mont Blanc")]


async def test_question_is_rewritten_by_the_conversation_before_it() -> None:
    vllm = FakeVllm(completion=(" How high is", " Mont Blanc?"))
    async with fake_replicas(vllm) as replicas:
        generator = VllmGenerator(replicas, load=nothing_else, clock=Clock())
        made = await generator.rewrite("How high is it?", HISTORY, max_tokens=9, deadline_s=109.0)
    call = vllm.completions[0]
    wanted = rankrag_prompts().rewrite_prompt("How high is it?", ["user", "assistant"], [one.text for one in HISTORY])
    assert vllm.tokenizer.decode(call["prompt"]) == wanted.text
    assert (call["max_tokens"], call["stop"]) == (9, ["\n"])
    assert made == Rewritten(" How high is Mont Blanc?", Usage(len(call["prompt"]), 2))


async def test_long_conversation_is_cut_for_the_question_to_be_rewritten() -> None:
    vllm = FakeVllm()
    async with fake_replicas(vllm) as replicas:
        generator = VllmGenerator(replicas, load=nothing_else, clock=Clock())
        await generator.rewrite("How high is it?", [Turn("user", "Long ago. " * 900)], max_tokens=9, deadline_s=109.0)
    assert len(vllm.completions[0]["prompt"]) <= vllm.max_model_len - 9
    assert "How high is it?" in vllm.tokenizer.decode(vllm.completions[0]["prompt"])


UNFINISHED: list[object] = [
    {"choices": [{"index": 0, "text": "4,806", "finish_reason": None}]},
    {"choices": [{"index": 0, "text": " me", "finish_reason": "length"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    "[DONE]",
]


def unfinished(request: httpx.Request) -> httpx.Response | None:
    if json.loads(request.content or "{}").get("stream"):
        return httpx.Response(200, text=sse(*UNFINISHED), headers={"Content-Type": "text/event-stream"})
    return None


async def test_answer_that_the_limit_ended_says_so() -> None:
    pieces = await generate(FakeVllm(instead=unfinished))
    assert [piece.is_unfinished for piece in pieces] == [False, True, False]
