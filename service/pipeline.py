"""One question's way: retrieve, score, keep, generate."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from service.core.citations import Cited, cite
from service.core.prompts import PromptSet, collapse
from service.core.ranking import keep_best, keep_first, order_context
from service.errors import DeadlineError, EngineError, IndexUnavailableError, OverloadedError, RerankGatedError
from service.ports import (
    NO_TRACER,
    AnswerCache,
    Encoder,
    Generator,
    Piece,
    Scorer,
    Scores,
    Span,
    Tracer,
    VectorIndex,
)
from service.types import (
    NO_FILTER,
    Answer,
    Citation,
    Degradation,
    Filter,
    Passage,
    Query,
    RetrievedPassage,
    ScoredPassage,
    Timings,
    Usage,
)

# Of the time that is left when scoring begins, what scoring may take; the rest is the answer's.
SCORE_SHARE = 0.7

# The same for rewriting a question, and how long one may become.
REWRITE_SHARE = 0.25
REWRITE_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the retriever found, in its order, and for which question if it was rewritten."""

    passages: tuple[RetrievedPassage, ...]
    rewritten_question: str | None = None


@dataclass(frozen=True, slots=True)
class Reranked:
    """What was kept, best first."""

    passages: tuple[ScoredPassage, ...]
    degraded: tuple[Degradation, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer."""

    text: str


Event: TypeAlias = Retrieved | Reranked | Delta | Citation | Answer


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What became of a follow-up; `question` is None where it stays as it is."""

    question: str | None = None
    degraded: tuple[Degradation, ...] = ()
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class Stopwatch:
    """Seconds per stage, for one request; each stage is a span of its trace, too."""

    clock: Callable[[], float]
    tracer: Tracer = NO_TRACER
    started_s: float = field(init=False)
    stages: dict[str, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.started_s = self.clock()

    @contextmanager
    def stage(self, name: str) -> Iterator[Span]:
        begun_s = self.clock()
        try:
            with self.tracer.stage(name) as span:
                yield span
        finally:
            self.stages[f"{name}_s"] = self.clock() - begun_s

    def mark(self, name: str) -> None:
        """The time from the start of the request until now, kept the first time only."""
        self.stages.setdefault(f"{name}_s", self.clock() - self.started_s)

    def timings(self) -> Timings:
        self.mark("total")
        return Timings(**self.stages)


@dataclass(slots=True)
class _Made:
    """What there is of an answer so far."""

    kept: list[ScoredPassage]
    degraded: tuple[Degradation, ...]
    usage: Usage
    rewritten_question: str | None
    text: str = ""
    is_context_cut: bool = False
    is_unfinished: bool = False

    def add(self, piece: Piece) -> str:
        """What `piece` adds to the text, which begins with a character that isn't white space."""
        text = piece.text if self.text else piece.text.lstrip()
        self.text += text
        self.usage += piece.usage or Usage()
        self.is_context_cut |= piece.is_context_cut
        self.is_unfinished |= piece.is_unfinished
        return text


@dataclass(frozen=True, slots=True)
class Retriever:
    """An index and the encoder of its questions."""

    encoder: Encoder
    index: VectorIndex

    async def find(self, question: str, top_n: int) -> list[RetrievedPassage]:
        """The `top_n` nearest passages. Raises RetrievalError."""
        return await self.index.search(await self.encoder.encode_query(question, use_cache=False), top_n, NO_FILTER)

    async def search(
        self, question: str, watch: Stopwatch, *, top_n: int, filters: Filter, use_cache: bool
    ) -> list[RetrievedPassage]:
        with watch.stage("encode"):
            vector = await self.encoder.encode_query(question, use_cache=use_cache)
        with watch.stage("search") as span:
            found = await self.index.search(vector, top_n, filters)
            span.set(top_n=top_n, num_found=len(found))
        return found


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The whole path over its ports; `clock` gives seconds, the same clock that deadlines are on.

    Without a `retriever` questions must bring their passages.
    """

    retriever: Retriever | None
    scorer: Scorer
    generator: Generator
    answers: AnswerCache
    prompts: PromptSet
    clock: Callable[[], float]
    tracer: Tracer = NO_TRACER

    async def answer(self, query: Query) -> Answer:
        """The last event of `begin`.

        Raises:
            OverloadedError: nothing was begun.
            RequestError, RetrievalError, IndexUnavailableError, EngineError, DeadlineError: there is no answer.
        """
        async with aclosing(await self.begin(query)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise EngineError("the engine gave no answer")

    async def search(
        self, question: str, *, top_n: int, filters: Filter, use_cache: bool, deadline_s: float
    ) -> tuple[list[RetrievedPassage], Timings]:
        """Retrieval alone.

        Raises:
            OverloadedError: nothing was begun.
            RequestError: `filters` don't fit the index. IndexUnavailableError, RetrievalError: there is no result.
        """
        watch, retriever = Stopwatch(self.clock, self.tracer), self._open_retriever()
        retriever.encoder.admit(deadline_s=deadline_s)
        found = await retriever.search(
            question, watch, top_n=top_n, filters=filters, use_cache=use_cache
        )  # fmt: skip
        return found, watch.timings()

    async def begin(self, query: Query) -> AsyncGenerator[Event, None]:
        """Everything that happens to one question, to be awaited as it happens; an Answer comes last.

        Whether there is room for the question shows before the first event: then nothing was done for it yet.
        A known answer needs no room.

        Raises:
            IndexUnavailableError: it brings no passages, and there is no index.
            OverloadedError, EngineError: the encoder or the scorer did not admit it.
        """
        watch = Stopwatch(self.clock, self.tracer)
        retriever = self._open_retriever() if query.passages is None else None
        if query.use_cache and (known := await self.answers.get(query)) is not None:
            return _only(replace(known, is_cached=True, usage=Usage(), timings=watch.timings()))
        if retriever:
            retriever.encoder.admit(deadline_s=query.deadline_s)
        num_pairs = query.top_n if query.passages is None else len(query.passages)
        self.scorer.admit(num_pairs, deadline_s=self._score_deadline_s(query), priority=query.priority)
        return self._stream(query, watch)

    async def _stream(self, query: Query, watch: Stopwatch) -> AsyncGenerator[Event, None]:
        rewriting = await self._rewrite(query, watch)
        asked = replace(query, question=rewriting.question or query.question)
        retrieved = await self._retrieve(asked, watch)
        yield Retrieved(tuple(retrieved), rewriting.question)
        kept, degraded, usage = await self._rerank(asked, retrieved, watch)
        yield Reranked(tuple(kept), degraded)
        made = _Made(kept, (*rewriting.degraded, *degraded), rewriting.usage + usage, rewriting.question)
        if kept:
            async with aclosing(self._generate(asked, kept, watch)) as generated:
                async for piece in generated:
                    if text := made.add(piece):
                        yield Delta(text)
        answer = self._finish(asked, made, watch)
        for citation in answer.citations:
            yield citation
        if query.use_cache and not answer.degraded:
            await self.answers.put(query, answer)
        yield answer

    async def _rewrite(self, query: Query, watch: Stopwatch) -> Rewriting:
        """Where it fails, the question is asked as it is, and that is said."""
        if not query.history:
            return Rewriting()
        now_s = self.clock()
        try:
            with watch.stage("rewrite") as span:
                made = await self.generator.rewrite(
                    query.question, query.history, max_tokens=REWRITE_MAX_TOKENS,
                    deadline_s=now_s + REWRITE_SHARE * (query.deadline_s - now_s),
                )  # fmt: skip
                span.set(**_tokens(made.usage))
        except (EngineError, DeadlineError, OverloadedError):
            return Rewriting(degraded=("rewrite_failed",))
        question = collapse(made.text)
        if self.prompts.is_abstention(question):
            return Rewriting(degraded=("rewrite_failed",), usage=made.usage)
        return Rewriting(question, usage=made.usage)

    async def _retrieve(self, query: Query, watch: Stopwatch) -> list[RetrievedPassage]:
        if query.passages is not None:
            return in_given_order(query.passages)
        return await self._open_retriever().search(
            query.question, watch, top_n=query.top_n, filters=query.filters, use_cache=query.use_cache
        )

    def _open_retriever(self) -> Retriever:
        if self.retriever is None:
            raise IndexUnavailableError(
                "no index is loaded: give `passages`, or set RANKRAG_INDEX__PATH to one built by `rankrag index build`"
            )
        return self.retriever

    async def _rerank(
        self, query: Query, retrieved: list[RetrievedPassage], watch: Stopwatch
    ) -> tuple[list[ScoredPassage], tuple[Degradation, ...], Usage]:
        """Keep the best; where scoring fails or ends early, make do with what there is and say so."""
        passages = [found.passage for found in retrieved]
        try:
            with watch.stage("score") as span:
                scored = await self.scorer.score(
                    query.question, passages, deadline_s=self._score_deadline_s(query), use_cache=query.use_cache,
                    priority=query.priority, top_k=query.top_k, allow_partial=True,
                )  # fmt: skip
                note_scoring(span, scored)
        except (EngineError, DeadlineError, OverloadedError):
            return keep_first(retrieved, query.top_k), ("rerank_skipped",), Usage()
        except RerankGatedError:
            return keep_first(retrieved, query.top_k), ("rerank_gated",), Usage()
        with self.tracer.stage("keep") as span:
            kept = keep_best(
                retrieved, scored.scores, query.top_k, query.min_relevance, is_partial=scored.is_partial
            )  # fmt: skip
            span.set(num_kept=len(kept), num_in_context=len(_context(kept)))
        return kept, degradation(scored), scored.usage

    def _score_deadline_s(self, query: Query) -> float:
        """When scoring must be done if it began now."""
        now_s = self.clock()
        return now_s + SCORE_SHARE * (query.deadline_s - now_s)

    async def _generate(self, query: Query, kept: list[ScoredPassage], watch: Stopwatch) -> AsyncGenerator[Piece, None]:
        passages = [scored.passage for scored in order_context(_context(kept), query.context_order)]
        pieces = self.generator.generate(
            query.question, passages, max_tokens=query.max_tokens, deadline_s=query.deadline_s
        )
        with watch.stage("generate") as span:
            async with aclosing(pieces):
                async for piece in pieces:
                    watch.mark("ttft")
                    if piece.usage:
                        span.set(**_tokens(piece.usage))
                    yield piece

    def _finish(self, query: Query, made: _Made, watch: Stopwatch) -> Answer:
        text = made.text.strip() or self.prompts.abstention
        abstained = self.prompts.is_abstention(text)
        context = order_context(_context(made.kept), query.context_order)
        cited = Cited((), 0) if abstained else cite(text, context)
        return Answer(
            text=text,
            citations=cited.citations,
            passages=tuple(made.kept),
            abstained=abstained,
            degraded=(*made.degraded, "context_truncated") if made.is_context_cut else made.degraded,
            usage=made.usage,
            timings=watch.timings(),
            rewritten_question=made.rewritten_question,
            citations_dropped=cited.num_dropped,
            is_unfinished=made.is_unfinished,
        )


def note_scoring(span: Span, scored: Scores) -> None:
    usage = scored.usage
    span.set(
        num_passages=len(scored.scores), pairs_scored=usage.pairs_scored, pairs_cached=usage.pairs_cached,
        is_partial=scored.is_partial, **_tokens(usage),
    )  # fmt: skip


def _tokens(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}


def in_given_order(passages: Sequence[Passage]) -> list[RetrievedPassage]:
    """As if they had been retrieved in this order, but without the retriever's scores."""
    return [RetrievedPassage(passage, None, rank) for rank, passage in enumerate(passages, start=1)]


def degradation(scored: Scores) -> tuple[Degradation, ...]:
    """What to declare of a ranking by these scores."""
    return ("rerank_partial",) if scored.is_partial else ()


async def _only(answer: Answer) -> AsyncGenerator[Event, None]:
    yield answer


def _context(kept: list[ScoredPassage]) -> list[ScoredPassage]:
    """What the answer is made from, and may cite."""
    return [scored for scored in kept if scored.is_in_context]
