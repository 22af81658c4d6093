"""What the pipeline needs from the outside world. Adapters implement these; tests have small fakes."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.types import Answer, Filters, Passage, Query, RetrievedPassage, Score, Usage

Vector = NDArray[np.float32]


class Encoder(Protocol):
    async def encode_query(self, question: str, *, use_cache: bool) -> Vector:
        """(dim,) float32, L2-normalised if the index wants it. Raises RetrievalError."""
        ...


class VectorIndex(Protocol):
    @property
    def version(self) -> str:
        """Digest of the index's content: equal versions hold equal passages and vectors."""
        ...

    async def search(self, vector: Vector, top_n: int, filters: Filters) -> list[RetrievedPassage]:
        """At most `top_n` passages that pass `filters`, best first, ties by position in the index.

        Raises:
            RequestError: a filter names an unknown field or a value of the wrong type.
            RetrievalError: the search failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """One score per passage, in the order of the passages, and the tokens they cost."""

    scores: tuple[Score, ...]
    usage: Usage


class Scorer(Protocol):
    async def score(self, question: str, passages: Sequence[Passage], *, deadline_s: float, use_cache: bool) -> Scores:
        """P(True) for each pair of `question` and a passage. All or nothing.

        Raises:
            RequestError: the question alone is too long for the checkpoint.
            EngineError, DeadlineError: no score was computed; none is ever guessed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer as it is generated; the last one carries the usage."""

    text: str
    usage: Usage | None = None
    is_context_cut: bool = False


class Generator(Protocol):
    def generate(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int, deadline_s: float
    ) -> AsyncGenerator[Piece, None]:
        """Answer from `passages`, best first, at temperature 0.

        Raises:
            RequestError: the question alone is too long for the checkpoint.
            EngineError, DeadlineError: the answer is not complete.
        """
        ...


class Cache(Protocol):
    """A cache may forget and may fail, silently for the caller: a miss is always a right answer."""

    async def get_many(self, kind: str, keys: Sequence[str]) -> list[bytes | None]: ...

    async def set_many(self, kind: str, values: Mapping[str, bytes]) -> None: ...

    def is_up(self) -> bool:
        """Whether the store behind it works, as far as known; down is no failure, only slower."""
        ...


class AnswerCache(Protocol):
    """Whole answers, by everything in the query that decides them."""

    async def get(self, query: Query) -> Answer | None: ...

    async def put(self, query: Query, answer: Answer) -> None: ...
