"""Answers from vLLM."""

import httpx
import pytest

from service.adapters.generator import VllmGenerator
from service.errors import DeadlineError, EngineError, RequestError
from service.ports import Piece
from service.types import Passage, Usage
from tests.fake_vllm import FakeVllm
from tests.fakes import Clock, rankrag_prompts

QUESTION = "How high is Mont Blanc?"
PASSAGES = [Passage("a", "It rises to 4,806 metres.", "Mont Blanc"), Passage("b", "A river.", "Rhine")]


async def generate(
    vllm: FakeVllm, passages: list[Passage] = PASSAGES, question: str = QUESTION, clock: Clock | None = None,
    is_checked: bool = True,
) -> list[Piece]:  # fmt: skip
    clock = clock or Clock()
    async with vllm.engine(is_checked=is_checked) as engine:
        generator = VllmGenerator(engine, clock=clock)
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
    async with vllm.engine() as engine:
        vllm.instead = lambda _: httpx.Response(500, json={"message": "CUDA out of memory"})
        pieces = VllmGenerator(engine, clock=Clock()).generate(QUESTION, PASSAGES, max_tokens=16, deadline_s=109.0)
        with pytest.raises(EngineError, match="CUDA out of memory"):
            await anext(aiter(pieces))
