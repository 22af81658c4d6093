"""What the pipeline needs from the outside world. Adapters implement these; tests have small fakes."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

from service.types import Answer, Filter, Passage, Priority, Query, RetrievedPassage, Score, Turn, Usage

Vector = NDArray[np.float32]


class Encoder(Protocol):
    def admit(self, *, deadline_s: float) -> None:
        """Whether one more question could be encoded early enough. Raises OverloadedError."""
        ...

    async def encode_query(self, question: str, *, use_cache: bool) -> Vector:
        """(dim,) float32, L2-normalised if the index wants it. Raises RetrievalError."""
        ...


class VectorIndex(Protocol):
    @property
    def version(self) -> str:
        """Digest of the index's content: equal versions hold equal passages and vectors."""
        ...

    async def search(self, vector: Vector, top_n: int, filters: Filter) -> list[RetrievedPassage]:
        """At most `top_n` passages that pass `filters`, best first, ties by position in the index.

        Raises:
            RequestError: a filter names an unknown field or a value of the wrong type.
            RetrievalError: the search failed. IndexUnavailableError: the index is not what it was any more.
        """
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """One score per passage, in the order of the passages, and the tokens they cost.

    A score is None where the pair was not scored: because the best were settled before it (early exit), or,
    with `is_partial`, because the time was over.
    """

    scores: tuple[Score | None, ...]
    usage: Usage
    is_partial: bool = False


class Scorer(Protocol):
    def admit(self, num_pairs: int, *, deadline_s: float, priority: Priority) -> None:
        """Whether about `num_pairs` pairs could be scored in time, before anything is known of them.

        Raises:
            EngineError: no engine is up. OverloadedError: too much waits already.
        """
        ...

    async def score(
        self, question: str, passages: Sequence[Passage], *, deadline_s: float, use_cache: bool,
        priority: Priority = Priority.INTERACTIVE, top_k: int | None = None, allow_partial: bool = False,
    ) -> Scores:  # fmt: skip
        """P(True) for each pair of `question` and a passage; the passages come in the retriever's order.

        With `top_k` only the best so many are wanted, and scoring may stop once they are settled. With
        `allow_partial` what was scored by the deadline is returned, if it is anything; otherwise all or nothing.

        Raises:
            RequestError: the question alone is too long for the checkpoint.
            OverloadedError: refused before any work was done.
            EngineError, DeadlineError: no score was computed; none is ever guessed.
        """
        ...


class DocumentCutter(Protocol):
    """Cuts documents by the checkpoint's own tokens, so that a ranking prompt with `question` takes what is left.

    Titles stay whole. `max_tokens` None is what the checkpoint's context has room for; it is never more than that.
    """

    async def cut(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int | None, keeps_end: bool = False
    ) -> list[Passage]:
        """Each with at most the first `max_tokens` tokens of its text, or the last. Raises EngineError: none is up."""
        ...

    async def chunks(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int | None,
        max_chunks: int, max_chunks_per_document: int | None = None,
    ) -> list[list[Passage]]:  # fmt: skip
        """Each in pieces of at most `max_tokens` tokens, at least one, cut between sentences where possible.

        Of each document only the first `max_chunks_per_document` count, all if None.

        Raises:
            TooLargeError: there are more than `max_chunks` in all.
            EngineError: none is up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer as it is generated; the last one carries the usage. `max_tokens` may leave it unfinished."""

    text: str
    usage: Usage | None = None
    is_context_cut: bool = False
    is_unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What the model made of a question and the conversation before it."""

    text: str
    usage: Usage


class Generator(Protocol):
    def generate(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int, deadline_s: float
    ) -> AsyncGenerator[Piece, None]:
        """Answer from `passages`, in the order given, at temperature 0.

        Raises:
            RequestError: the question alone is too long for the checkpoint.
            EngineError, DeadlineError: the answer is not complete.
        """
        ...

    async def rewrite(self, question: str, history: Sequence[Turn], *, max_tokens: int, deadline_s: float) -> Rewritten:
        """The question as one that can be understood without the conversation before it.

        Raises:
            RequestError: the question alone is too long for the checkpoint.
            EngineError, DeadlineError: there is none.
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


Place = NewType("Place", object)
"""Somewhere in a trace, for a link to it; only the tracer looks inside."""


class Span(Protocol):
    """Something under way, as a trace will show it. No text of the caller's goes into it."""

    def set(self, **attributes: str | bool | float) -> None: ...

    def link(self, place: Place) -> None:
        """It serves whoever is there, too."""
        ...


class Tracer(Protocol):
    """Says what happens when, to whoever looks at traces. Each span lasts as long as its context."""

    def stage(self, name: str, /) -> AbstractContextManager[Span]:
        """A part of the work for the request that the caller is in."""
        ...

    def batch(self, name: str, places: Iterable[Place], /) -> AbstractContextManager[Span]:
        """Work for several requests at once: in a trace of its own, with links to theirs."""
        ...

    def place(self) -> Place | None:
        """Where the caller is; None where nothing is recorded."""
        ...

    def headers(self) -> Mapping[str, str]:
        """What goes along with a call, so that the other side continues the caller's trace."""
        ...


class _NoSpan:
    def set(self, **attributes: str | bool | float) -> None:
        pass

    def link(self, place: Place) -> None:
        pass


_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class NoTracer:
    """Records nothing, for next to nothing."""

    def stage(self, _name: str, /) -> AbstractContextManager[Span]:
        return nullcontext(_NoSpan())

    def batch(self, _name: str, _places: Iterable[Place], /) -> AbstractContextManager[Span]:
        return nullcontext(_NoSpan())

    def place(self) -> Place | None:
        return None

    def headers(self) -> Mapping[str, str]:
        return _NOTHING


NO_TRACER: Final = NoTracer()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the tightest of a caller's rates says: how many requests a window has, and how many are left of it."""

    is_granted: bool
    limit: int
    window_s: int
    remaining: int
    reset_s: int


class RateLimiter(Protocol):
    async def take(self, caller: str, rates: str) -> Allowance:
        """Count one request of `caller`; `rates` are like `600/minute;20/second`. It never fails."""
        ...
