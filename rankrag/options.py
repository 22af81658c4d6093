"""What may be asked for beside the question; whatever is left out is as the service is set."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypeAlias, TypedDict

Filters: TypeAlias = Mapping[str, Any]
DocumentLike: TypeAlias = str | Mapping[str, Any]


class GivenPassage(TypedDict, total=False):
    id: str
    title: str
    text: Required[str]
    metadata: Mapping[str, str | int | float | bool | None]


class Message(TypedDict):
    role: Literal["user", "assistant"]
    content: str


# A conversation's question is its last message, which is the user's.
Question: TypeAlias = str | Sequence[Message]


class CommonOptions(TypedDict, total=False):
    cache: bool
    deadline_ms: int
    priority: Literal["interactive", "bulk"]


class AnswerOptions(CommonOptions, total=False):
    top_n: int
    top_k: int
    filters: Filters
    passages: Sequence[GivenPassage]
    min_relevance: float
    context_order: Literal["rank", "reverse", "edges"]
    max_tokens: int
    rewrite: bool


class SearchOptions(TypedDict, total=False):
    top_n: int
    filters: Filters
    cache: bool
    deadline_ms: int


class RerankOptions(CommonOptions, total=False):
    top_n: int
    return_documents: bool
    rank_fields: Sequence[str]
    max_tokens_per_doc: int
    max_chunks_per_doc: int
    long_documents: Literal["truncate", "max_chunk"]
    allow_partial: bool
