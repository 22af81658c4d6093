"""Answers from vLLM, streamed."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from service.adapters.engine import is_engines_fault
from service.adapters.replicas import Replicas
from service.adapters.tokenizer import EncodedPrompt
from service.errors import DeadlineError, EngineError, EngineRefusedError
from service.ports import Piece, Rewritten
from service.types import Passage, Turn, Usage


class VllmGenerator:
    """The Generator port over all replicas: an answer comes from the one with the least to do.

    `load` gives the tokens that other work has outstanding, by the replica's name; those of answers are counted
    here.
    """

    def __init__(
        self, replicas: Replicas, *, load: Callable[[], Mapping[str, int]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._replicas = replicas
        self._load = load
        self._clock = clock
        self._num_tokens: Counter[str] = Counter()

    async def generate(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int, deadline_s: float
    ) -> AsyncGenerator[Piece, None]:
        """An answer that fails before its first piece is begun once more, elsewhere; later nothing can be unsaid."""
        texts = [(passage.title, passage.text) for passage in passages]
        prompt = await asyncio.to_thread(
            self._replicas.tokenizer.answer_prompt, question, texts, max_tokens=self._room(max_tokens)
        )
        async with aclosing(self._completion(prompt, max_tokens, deadline_s)) as pieces:
            async for piece in pieces:
                yield piece

    async def rewrite(self, question: str, history: Sequence[Turn], *, max_tokens: int, deadline_s: float) -> Rewritten:
        prompt = await asyncio.to_thread(
            self._replicas.tokenizer.rewrite_prompt, question, history, max_tokens=self._room(max_tokens)
        )
        async with aclosing(self._completion(prompt, max_tokens, deadline_s)) as completion:
            pieces = [piece async for piece in completion]
        usage = sum((piece.usage for piece in pieces if piece.usage), Usage())
        return Rewritten("".join(piece.text for piece in pieces), usage)

    def _room(self, max_tokens: int) -> int:
        return max(self._replicas.max_model_len() - max_tokens, 1)

    async def _completion(
        self, prompt: EncodedPrompt, max_tokens: int, deadline_s: float
    ) -> AsyncGenerator[Piece, None]:
        self._replicas.require()
        name = self._idlest(self._replicas.ready())
        is_begun = False
        try:
            async with aclosing(self._pieces(name, prompt, max_tokens, deadline_s)) as pieces:
                async for piece in pieces:
                    is_begun = True
                    yield piece
            return
        except EngineError as exc:
            others = [other for other in self._replicas.ready() if other != name]
            if is_begun or not others or isinstance(exc, EngineRefusedError):
                raise
        async with aclosing(self._pieces(self._idlest(others), prompt, max_tokens, deadline_s)) as pieces:
            async for piece in pieces:
                yield piece

    def _idlest(self, names: Iterable[str]) -> str:
        """The one with the fewest tokens outstanding, the first of several."""
        load = self._load()
        return min(names, key=lambda name: load.get(name, 0) + self._num_tokens[name])

    async def _pieces(
        self, name: str, prompt: EncodedPrompt, max_tokens: int, deadline_s: float
    ) -> AsyncGenerator[Piece, None]:
        """The answer from this replica, which is under suspicion where it fails by its own fault."""
        engine = self._replicas.ready()[name]
        num_tokens = len(prompt.ids) + max_tokens
        self._num_tokens[name] += num_tokens
        try:
            pieces = engine.client.stream_completion(
                engine.model().id, prompt.ids, max_tokens=max_tokens, stop=engine.tokenizer.prompts.stop,
                timeout_s=max(deadline_s - self._clock(), 0.001), priority=self._replicas.generation_priority,
            )  # fmt: skip
            async with aclosing(pieces):
                async for piece in pieces:
                    if self._clock() > deadline_s:
                        raise DeadlineError("the answer was not complete in the time this request has")
                    engine.note_progress()
                    yield replace(piece, is_context_cut=prompt.is_cut)
        except EngineError as exc:
            if is_engines_fault(exc):
                self._replicas.suspect(name, exc.message)
            raise
        finally:
            self._num_tokens[name] -= num_tokens
