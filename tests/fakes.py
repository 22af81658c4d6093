"""Small stand-ins for what the pipeline needs, in memory and without a clock of their own."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import httpx
import numpy as np
from fastapi import FastAPI

from service.adapters.prompt_files import read_prompts
from service.api.services import Dependency, Services
from service.core.prompts import PromptSet
from service.errors import DeadlineError, OverloadedError, TooLargeError
from service.metrics import Metrics
from service.pipeline import Pipeline, Retriever
from service.ports import NO_TRACER, Piece, Rewritten, Scores, Tracer, Vector
from service.settings import Settings
from service.types import Answer, Filter, Passage, Priority, Query, RetrievedPassage, Score, Turn, Usage

Relevance = Callable[[str, Passage], float]


class Clock:
    """A clock that moves only when told to."""

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


def nothing_happens() -> None:
    """What a fake does between being called and answering, unless a test says more."""


@dataclass
class FakeEncoder:
    """Encodes every question to the same vector."""

    delay_s: float = 0.0
    error: Exception | None = None
    meanwhile: Callable[[], None] = nothing_happens
    calls: list[tuple[str, bool]] = field(default_factory=list)
    refusal: OverloadedError | None = None

    def admit(self, *, deadline_s: float) -> None:
        assert deadline_s > 0
        if self.refusal:
            raise self.refusal

    async def encode_query(self, question: str, *, use_cache: bool) -> Vector:
        self.calls.append((question, use_cache))
        self.meanwhile()
        await asyncio.sleep(self.delay_s)
        if self.error:
            raise self.error
        return np.ones(4, dtype=np.float32)


@dataclass
class FakeIndex:
    """Retrieves its passages in their order, whatever is asked."""

    stored: Sequence[Passage] = ()
    error: Exception | None = None
    meanwhile: Callable[[], None] = nothing_happens
    version: str = "index-1"
    calls: list[tuple[int, Filter]] = field(default_factory=list)

    async def search(self, vector: Vector, top_n: int, filters: Filter) -> list[RetrievedPassage]:
        assert vector.dtype == np.float32
        self.calls.append((top_n, filters))
        self.meanwhile()
        if self.error:
            raise self.error
        return [
            RetrievedPassage(passage, 1.0 / rank, rank) for rank, passage in enumerate(self.stored[:top_n], start=1)
        ]


def by_overlap(question: str, passage: Passage) -> float:
    """The share of the question's words that the passage has."""
    words = question.casefold().split()
    held = {word.strip(".,") for word in f"{passage.title} {passage.text}".casefold().split()}
    return sum(word in held for word in words) / max(len(words), 1)


@dataclass
class FakeScorer:
    """Scores with `relevance`, at one prompt token a pair.

    Where `top_k` are wanted it stops after the first `num_settling` pairs, and whenever it is asked it has time
    for the first `num_in_time` only.
    """

    relevance: Relevance = by_overlap
    delay_s: float = 0.0
    error: Exception | None = None
    num_settling: int | None = None
    num_in_time: int | None = None
    num_running: int = 0
    meanwhile: Callable[[], None] = nothing_happens
    calls: list[tuple[str, tuple[Passage, ...]]] = field(default_factory=list)
    deadlines_s: list[float] = field(default_factory=list)
    used_cache: list[bool] = field(default_factory=list)
    priorities: list[Priority] = field(default_factory=list)
    top_ks: list[int | None] = field(default_factory=list)
    refusal: Exception | None = None
    admitted: list[tuple[int, float, Priority]] = field(default_factory=list)

    def admit(self, num_pairs: int, *, deadline_s: float, priority: Priority) -> None:
        self.admitted.append((num_pairs, deadline_s, priority))
        if self.refusal:
            raise self.refusal

    async def score(
        self, question: str, passages: Sequence[Passage], *, deadline_s: float, use_cache: bool,
        priority: Priority = Priority.INTERACTIVE, top_k: int | None = None, allow_partial: bool = False,
    ) -> Scores:  # fmt: skip
        self.calls.append((question, tuple(passages)))
        self.priorities.append(priority)
        self.top_ks.append(top_k)
        self.deadlines_s.append(deadline_s)
        self.used_cache.append(use_cache)
        self.meanwhile()
        await self._delay()
        if self.error:
            raise self.error
        num_wanted = len(passages) if top_k is None else min(self.num_settling or len(passages), len(passages))
        num_scored = num_wanted if self.num_in_time is None else min(num_wanted, self.num_in_time)
        is_partial = num_scored < num_wanted
        if is_partial and not (allow_partial and num_scored):
            raise DeadlineError("the passages could not be scored in time")
        scores = [Score(self.relevance(question, passage), 0.99) for passage in passages[:num_scored]]
        unscored = [None] * (len(passages) - num_scored)
        return Scores((*scores, *unscored), Usage(prompt_tokens=num_scored, pairs_scored=num_scored), is_partial)

    async def _delay(self) -> None:
        self.num_running += 1
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
        finally:
            self.num_running -= 1


async def until_running(scorer: FakeScorer) -> None:
    """Wait, for five seconds at most, until a request is being scored."""
    async with asyncio.timeout(5):
        while not scorer.num_running:  # noqa: ASYNC110 (the fake sets no event)
            await asyncio.sleep(0.001)


@dataclass
class FakeCutter:
    """Its tokens are words, of which the context has room for `room`."""

    room: int = 1000
    questions: list[str] = field(default_factory=list)

    async def cut(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int | None, keeps_end: bool = False
    ) -> list[Passage]:
        self.questions.append(question)
        limit = min(self.room, max_tokens or self.room)
        kept = slice(-limit, None) if keeps_end else slice(limit)
        return [replace(passage, text=" ".join(passage.text.split()[kept])) for passage in passages]

    async def chunks(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int | None,
        max_chunks: int, max_chunks_per_document: int | None = None,
    ) -> list[list[Passage]]:  # fmt: skip
        self.questions.append(question)
        limit = min(self.room, max_tokens or self.room)
        found = []
        for passage in passages:
            words = passage.text.split()
            texts = [" ".join(words[at : at + limit]) for at in range(0, len(words), limit)]
            found.append([replace(passage, text=text) for text in texts[:max_chunks_per_document]])
        if sum(map(len, found)) > max_chunks:
            raise TooLargeError(f"documents: over {max_chunks}", field="documents", limit=max_chunks)
        return found


@dataclass
class FakeGenerator:
    """Generates `texts`, then the usage; raises `error` after `num_before_error` of them."""

    texts: Sequence[str] = (" 4,806", " metres")
    delay_s: float = 0.0
    is_context_cut: bool = False
    error: Exception | None = None
    num_before_error: int = 0
    meanwhile: Callable[[], None] = nothing_happens
    calls: list[tuple[str, tuple[Passage, ...], int, float]] = field(default_factory=list)
    num_open: int = 0
    is_unfinished: bool = False
    rewritten: str = " How high is Mont Blanc?"
    rewrite_error: Exception | None = None
    rewrites: list[tuple[str, tuple[Turn, ...], int, float]] = field(default_factory=list)

    async def generate(
        self, question: str, passages: Sequence[Passage], *, max_tokens: int, deadline_s: float
    ) -> AsyncGenerator[Piece, None]:
        self.calls.append((question, tuple(passages), max_tokens, deadline_s))
        self.num_open += 1
        try:
            for piece in self._pieces():
                yield piece
                await asyncio.sleep(self.delay_s)
        finally:
            self.num_open -= 1

    async def rewrite(self, question: str, history: Sequence[Turn], *, max_tokens: int, deadline_s: float) -> Rewritten:
        self.rewrites.append((question, tuple(history), max_tokens, deadline_s))
        if self.rewrite_error:
            raise self.rewrite_error
        return Rewritten(self.rewritten, Usage(prompt_tokens=20, completion_tokens=6))

    def _pieces(self) -> Iterator[Piece]:
        for number, text in enumerate(self.texts):
            if self.error and number == self.num_before_error:
                raise self.error
            self.meanwhile()
            yield Piece(text, is_context_cut=self.is_context_cut)
        if self.error:
            raise self.error
        usage = Usage(prompt_tokens=40, completion_tokens=len(self.texts))
        yield Piece("", usage=usage, is_context_cut=self.is_context_cut, is_unfinished=self.is_unfinished)


@dataclass
class MemoryAnswers:
    """Remembers answers by the whole query but its deadline and priority, and counts who asks."""

    known: dict[str, Answer] = field(default_factory=dict)
    num_gets: int = 0
    num_puts: int = 0

    async def get(self, query: Query) -> Answer | None:
        self.num_gets += 1
        return self.known.get(_key(query))

    async def put(self, query: Query, answer: Answer) -> None:
        self.num_puts += 1
        self.known[_key(query)] = answer


def _key(query: Query) -> str:
    return repr(replace(query, deadline_s=0.0, priority=Priority.ANSWER))


def rankrag_prompts() -> PromptSet:
    return read_prompts("rankrag-v1").prompts


MONT_BLANC = Passage("mont-blanc", "Mont Blanc rises to 4,806 metres.", "Mont Blanc", {"kind": "mountain"})
RHINE = Passage("rhine", "The Rhine is a river.", "Rhine", {"kind": "river", "length_km": 1230})
EIGER = Passage("eiger", "The Eiger rises to 3,967 metres.", "Eiger", {"kind": "mountain"})
PASSAGES = (RHINE, MONT_BLANC, EIGER)


@dataclass
class FakeServices:
    """All fakes of one app; `open` is what `create_app` takes for `open_pipeline`."""

    encoder: FakeEncoder = field(default_factory=FakeEncoder)
    index: FakeIndex = field(default_factory=lambda: FakeIndex(PASSAGES))
    scorer: FakeScorer = field(default_factory=FakeScorer)
    cutter: FakeCutter = field(default_factory=FakeCutter)
    generator: FakeGenerator = field(default_factory=FakeGenerator)
    answers: MemoryAnswers = field(default_factory=MemoryAnswers)
    clock: Clock = field(default_factory=Clock)
    has_index: bool = True
    engine: Dependency = field(default_factory=lambda: Dependency(True, "serving fake"))
    cache: Dependency = field(default_factory=lambda: Dependency(True, "in this process", required=False))

    def pipeline(self, tracer: Tracer = NO_TRACER) -> Pipeline:
        return Pipeline(
            retriever=Retriever(self.encoder, self.index) if self.has_index else None,
            scorer=self.scorer,
            generator=self.generator,
            answers=self.answers,
            prompts=rankrag_prompts(),
            clock=self.clock,
            tracer=tracer,
        )

    @asynccontextmanager
    async def open(self, settings: Settings, metrics: Metrics, tracer: Tracer = NO_TRACER) -> AsyncIterator[Services]:
        yield Services(
            settings=settings,
            metrics=metrics,
            prompts=rankrag_prompts(),
            scorer=self.scorer,
            cutter=self.cutter,
            pipeline=self.pipeline(tracer),
            model="models/fake",
            index_version=self.index.version if self.has_index else "",
            dependencies=self._dependencies,
            clock=self.clock,
            tracer=tracer,
        )

    def _dependencies(self) -> Mapping[str, Dependency]:
        index = Dependency(self.has_index, "3 passages" if self.has_index else "none configured", self.has_index)
        return {"engine": self.engine, "index": index, "cache": self.cache}


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `app`, started and stopped as a server would; what the app lets escape is a 500 here too."""
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client
