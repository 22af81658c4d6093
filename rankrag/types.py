"""What the service answers, as frozen values. Fields that a newer service adds are not an error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Body: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, and pairs of a question and a passage: those scored for this request, and those that were known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    pairs_scored: int = 0
    pairs_cached: int = 0

    @classmethod
    def of(cls, body: Body) -> "Usage":
        return cls(**{name: body[name] for name in cls.__slots__ if name in body})


@dataclass(frozen=True, slots=True)
class Citation:
    """Characters [start, end) of the answer, and the ids of the passages that hold these words."""

    start: int
    end: int
    text: str
    source_ids: tuple[str, ...]

    @classmethod
    def of(cls, body: Body) -> "Citation":
        return cls(body["start"], body["end"], body["text"], tuple(source["id"] for source in body["sources"]))


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """As the retriever found it: rank from 1, before reranking; the text where the service gives it."""

    id: str
    title: str
    retrieval_rank: int
    retrieval_score: float | None
    text: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, body: Body) -> "FoundPassage":
        return cls(
            id=body["id"],
            title=body.get("title") or "",
            retrieval_rank=body["retrieval_rank"],
            retrieval_score=body.get("retrieval_score"),
            text=body.get("text"),
            metadata=body.get("metadata") or {},
        )


@dataclass(frozen=True, slots=True)
class Passage:
    """A kept passage: rank from 1 after reranking; the scores are None where it was not reranked."""

    id: str
    title: str
    text: str
    rank: int
    retrieval_rank: int
    retrieval_score: float | None
    relevance_score: float | None
    label_mass: float | None
    in_context: bool
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, body: Body) -> "Passage":
        return cls(**{name: body[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Answer:
    """`degraded` says what had to be left out; `raw` is the whole body, with what has no field here."""

    text: str
    citations: tuple[Citation, ...]
    passages: tuple[Passage, ...]
    abstained: bool
    degraded: tuple[str, ...]
    cached: bool
    model: str
    index_version: str
    rewritten_question: str | None
    usage: Usage
    timings_ms: Mapping[str, float]
    raw: Body = field(repr=False, compare=False)

    @classmethod
    def of(cls, body: Body) -> "Answer":
        return cls(
            text=body["answer"],
            citations=tuple(map(Citation.of, body["citations"])),
            passages=tuple(map(Passage.of, body["passages"])),
            abstained=body["abstained"],
            degraded=tuple(body["degraded"]),
            cached=body["cached"],
            model=body["model"],
            index_version=body["index_version"],
            rewritten_question=body.get("rewritten_question"),
            usage=Usage.of(body["usage"]),
            timings_ms=body["timings_ms"],
            raw=body,
        )


@dataclass(frozen=True, slots=True)
class SearchResults:
    """What the retriever alone finds, best first."""

    results: tuple[FoundPassage, ...]
    index_version: str
    timings_ms: Mapping[str, float]
    raw: Body = field(repr=False, compare=False)

    @classmethod
    def of(cls, body: Body) -> "SearchResults":
        return cls(tuple(map(FoundPassage.of, body["results"])), body["index_version"], body["timings_ms"], body)


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """`index` is its place in the request; `text` is there where it was asked for."""

    index: int
    relevance_score: float
    text: str | None = None

    @classmethod
    def of(cls, body: Body) -> "RankedDocument":
        document = body.get("document")
        return cls(body["index"], body["relevance_score"], None if document is None else document["text"])


@dataclass(frozen=True, slots=True)
class Ranking:
    """The documents that were scored, best first."""

    id: str
    model: str
    results: tuple[RankedDocument, ...]
    degraded: tuple[str, ...]
    usage: Usage
    timings_ms: Mapping[str, float]
    raw: Body = field(repr=False, compare=False)

    @classmethod
    def of(cls, body: Body) -> "Ranking":
        return cls(
            id=body["id"],
            model=body["model"],
            results=tuple(map(RankedDocument.of, body["results"])),
            degraded=tuple(body["degraded"]),
            usage=Usage.of(body["usage"]),
            timings_ms=body["meta"]["timings_ms"],
            raw=body,
        )
