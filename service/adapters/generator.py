"""Answers from vLLM, streamed."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from service.adapters.engine import Engine
from service.errors import DeadlineError
from service.ports import Piece
from service.types import Passage


class VllmGenerator:
    """The Generator port over one engine."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock

    async def generate(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int, deadline_s: float
    ) -> AsyncGenerator[Piece, None]:
        model, tokenizer = self._engine.model(), self._engine.tokenizer
        room = max(model.max_model_len - max_tokens, 1)
        texts = [(passage.title, passage.text) for passage in passages]
        prompt = await asyncio.to_thread(tokenizer.answer_prompt, question, texts, max_tokens=room)
        pieces = self._engine.client.stream_completion(
            model.id, prompt.ids, max_tokens=max_tokens, stop=tokenizer.prompts.stop,
            timeout_s=max(deadline_s - self._clock(), 0.001),
        )  # fmt: skip
        async with aclosing(pieces):
            async for piece in pieces:
                if self._clock() > deadline_s:
                    raise DeadlineError("the answer was not complete in the time this request has")
                self._engine.note_progress()
                yield replace(piece, is_context_cut=prompt.is_cut)
