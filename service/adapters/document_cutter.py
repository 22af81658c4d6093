"""The DocumentCutter port over the checkpoint's own tokenizer."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from semantic_text_splitter import TextSplitter

from service.adapters.tokenizer import PromptTokenizer
from service.errors import RequestError, TooLargeError
from service.types import Passage

_SEAM_TOKENS = 2  # what the place where passage and prompt meet may add


class TokenCutter:
    """`max_model_len` are the tokens of prompt and answer together, or an EngineError where no engine is up.

    Tokenising is done in threads, document by document, so that nothing goes on for long for a caller that has left.
    """

    def __init__(self, tokenizer: PromptTokenizer, max_model_len: Callable[[], int]) -> None:
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len

    async def cut(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int | None, keeps_end: bool = False
    ) -> list[Passage]:
        return [
            await asyncio.to_thread(self._cut, passage, limit, keeps_end=keeps_end)
            if (limit := self._limit(question, passage, max_tokens)) is not None
            else passage
            for passage in passages
        ]

    async def chunks(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int | None,
        max_chunks: int, max_chunks_per_document: int | None = None,
    ) -> list[list[Passage]]:  # fmt: skip
        found: list[list[Passage]] = []
        for passage in passages:
            limit = self._limit(question, passage, max_tokens)
            texts = [passage.text] if limit is None else await asyncio.to_thread(self._split, passage.text, limit)
            found.append([replace(passage, text=text) for text in texts[:max_chunks_per_document]])
            if sum(map(len, found)) > max_chunks:
                message = f"documents: make more than {max_chunks} chunks; allow longer ones"
                raise TooLargeError(message, field="documents", limit=max_chunks)
        return found

    def _limit(self, question: str, passage: Passage, max_tokens: int | None) -> int | None:
        """How many tokens of the text may stay; None where it can't have more: a token is a byte at least."""
        num_bytes = len(passage.text.encode())
        if max_tokens is not None and num_bytes > max_tokens:
            return min(max_tokens, self._room(question, passage))
        room = self._room(question, passage)
        return room if num_bytes > room else None

    def _room(self, question: str, passage: Passage) -> int:
        used = self._tokenizer.num_prompt_tokens(question, passage.title)
        room = self._max_model_len() - 1 - used - _SEAM_TOKENS
        if room < 1:
            raise RequestError("query: with the title it fills the checkpoint's context", field="query")
        return room

    def _cut(self, passage: Passage, max_tokens: int, *, keeps_end: bool) -> Passage:
        text = self._tokenizer.cut(passage.text, max_tokens, keeps_end=keeps_end)
        return passage if text == passage.text else replace(passage, text=text)

    def _split(self, text: str, max_tokens: int) -> list[str]:
        """Of a text of white space alone nothing remains but one empty chunk."""
        return TextSplitter.from_callback(self._tokenizer.count, max_tokens).chunks(text) or [""]
