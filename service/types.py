"""The values that travel through the service: frozen, and free of any library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Literal, TypeAlias

MetadataValue: TypeAlias = str | int | float | bool | None
Metadata: TypeAlias = Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field's value is one of `values`; None is a value, too: that of passages without the field."""

    field: str
    values: tuple[MetadataValue, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """The field's value is above or under `value`, or equal to it. Passages without the field don't pass."""

    field: str
    op: Literal["gt", "gte", "lt", "lte"]
    value: str | int | float


@dataclass(frozen=True, slots=True)
class Every:
    """All `parts` pass; of none, everything does."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Some:
    """At least one of `parts` passes."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """`part` doesn't pass."""

    part: "Filter"


Filter: TypeAlias = AnyOf | Bound | Every | Some | Not
"""What a passage's metadata must be."""

NO_FILTER: Final = Every(())


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that can be retrieved, scored and cited.

    `id` is the document's id, with `#n` appended (from 0) where a document made several passages.
    `context_ids` are the token ids of its part of a ranking prompt, where the index holds them.
    """

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)
    context_ids: Sequence[int] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    """A question of which it is known what answers it.

    `answers` are equally right short answers: empty where there is none, None where nobody says. `relevant` has
    grades above 0 by document id. `candidates` are passages to rank, in the retriever's order; none where they are
    to be retrieved. `about` is the document that was asked about, also where it doesn't answer.
    """

    id: str
    question: str
    answers: tuple[str, ...] | None = None
    relevant: Mapping[str, int] = field(default_factory=dict)
    candidates: tuple[Passage, ...] = ()
    about: str | None = None


@dataclass(frozen=True, slots=True)
class RetrievedPassage:
    """A passage with the retriever's score and its rank in the retriever's order, from 1.

    Of passages that came with the question the rank is their place there, and there is no score.
    """

    passage: Passage
    retrieval_score: float | None
    retrieval_rank: int


@dataclass(frozen=True, slots=True)
class Score:
    """What the checkpoint says of one (question, passage) pair.

    `relevance` is P(True) / (P(True) + P(False)) and `label_mass` is P(True) + P(False), both in [0, 1].
    A small label mass means that the model did not want to answer True or False at all.
    """

    relevance: float
    label_mass: float


@dataclass(frozen=True, slots=True)
class ScoredPassage:
    """A kept passage: rank from 1 after reranking. `score` is None where reranking was skipped.

    The answer is made from those that are in its context.
    """

    retrieved: RetrievedPassage
    score: Score | None
    rank: int
    is_in_context: bool = True

    @property
    def passage(self) -> Passage:
        return self.retrieved.passage


@dataclass(frozen=True, slots=True)
class Citation:
    """Characters [start, end) of the answer, and the ids of the kept passages that hold these words."""

    start: int
    end: int
    text: str
    passage_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that went into and came out of the checkpoint for one request; cached work costs none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    pairs_scored: int = 0
    pairs_cached: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.pairs_scored + other.pairs_scored,
            self.pairs_cached + other.pairs_cached,
        )


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent per stage, also where it failed; None where it did not run (cached, nothing to do)."""

    rewrite_s: float | None = None
    encode_s: float | None = None
    search_s: float | None = None
    score_s: float | None = None
    generate_s: float | None = None
    ttft_s: float | None = None
    total_s: float | None = None


ContextOrder: TypeAlias = Literal["rank", "reverse", "edges"]
Degradation: TypeAlias = Literal[
    "rerank_skipped", "rerank_partial", "rerank_gated", "context_truncated", "rewrite_failed"
]


class Priority(IntEnum):
    """Who goes first where the engine is busy: lower ones. Within one class requests share fairly."""

    ANSWER = 0
    INTERACTIVE = 1
    BULK = 2


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said in a conversation before the question."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """One question with everything that decides its answer.

    `deadline_s` is an absolute moment on the pipeline's clock; work that would end later is not begun. With
    `passages` nothing is retrieved: these are scored, kept and cited instead, all of them, whatever `top_n` is. With
    a `history` the question is first rewritten as one that stands without it.
    """

    question: str
    top_n: int
    top_k: int
    max_tokens: int
    deadline_s: float
    filters: Filter = NO_FILTER
    use_cache: bool = True
    min_relevance: float = 0.0
    priority: Priority = Priority.ANSWER
    passages: tuple[Passage, ...] | None = None
    context_order: ContextOrder = "rank"
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one query and how it came about.

    It `is_unfinished` where `max_tokens` ended it.
    """

    text: str
    citations: tuple[Citation, ...]
    passages: tuple[ScoredPassage, ...]
    abstained: bool
    degraded: tuple[Degradation, ...]
    usage: Usage
    timings: Timings
    is_cached: bool = False
    rewritten_question: str | None = None
    citations_dropped: int = 0
    is_unfinished: bool = False
