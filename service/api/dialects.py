"""What a rerank request means, whichever client wrote it, and how that client reads the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from service.api.rerank_schemas import DocumentBody, LongDocuments, RerankRequest, Side, TextsRequest, is_of_texts
from service.errors import RequestError
from service.types import Passage, Priority

CHUNK_TOKENS: Final = 512


class Dialect(StrEnum):
    """Whose clients ask in this way."""

    VLLM = "vllm"
    JINA = "jina"
    COHERE = "cohere"
    INFINITY = "infinity"
    TEI = "tei"


DIALECT_OF: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "/rerank": Dialect.VLLM,
        "/v1/rerank": Dialect.JINA,
        "/v2/rerank": Dialect.COHERE,
        "/infinity/rerank": Dialect.INFINITY,
    }
)
_PRIORITIES: Final = {"interactive": Priority.INTERACTIVE, "bulk": Priority.BULK}


def dialect_of(path: str, body: object) -> Dialect | None:
    """By the path, and on /rerank by the parsed JSON, too; None where nothing is reranked."""
    if path == "/rerank" and isinstance(body, Mapping) and is_of_texts(body):
        return Dialect.TEI
    return DIALECT_OF.get(path)


@dataclass(frozen=True, slots=True)
class Cut:
    """How documents of more than `max_tokens` are shortened: to that many, or into `max_chunks` chunks (None: all).

    `kept_side` is the one that stays of a document that isn't chunked; `max_tokens` None is what the checkpoint takes.
    """

    max_tokens: int | None = None
    long_documents: LongDocuments = "truncate"
    max_chunks: int | None = None
    kept_side: Side = "left"

    @property
    def is_chunked(self) -> bool:
        return self.long_documents == "max_chunk"

    @property
    def is_needed(self) -> bool:
        """Whether the end that the scorer itself would cut off at the checkpoint's limit isn't enough."""
        return self.is_chunked or self.max_tokens is not None or self.kept_side == "right"


@dataclass(frozen=True, slots=True)
class Ranking:
    """A rerank request in no dialect; `field` is what the request calls its documents."""

    dialect: Dialect
    query: str
    passages: tuple[Passage, ...]
    field: str
    top_n: int | None
    cut: Cut
    gives_texts: bool
    raw_scores: bool = False

    @property
    def top_k(self) -> int | None:
        """How many of the documents are wanted, if not all."""
        return self.top_n if self.top_n and self.top_n < len(self.passages) else None


def ranking_of(dialect: Dialect, body: RerankRequest | TextsRequest) -> Ranking:
    """Raises RequestError for a document without a text."""
    return _of_texts(body) if isinstance(body, TextsRequest) else _of_documents(dialect, body)


def priority_of(body: RerankRequest | TextsRequest) -> Priority:
    return _PRIORITIES[body.priority]


def _of_texts(body: TextsRequest) -> Ranking:
    kept_side: Side = "left" if body.truncation_direction == "right" else "right"
    return Ranking(
        dialect=Dialect.TEI,
        query=body.query,
        passages=tuple(Passage(str(number), text) for number, text in enumerate(body.texts)),
        field="texts",
        top_n=body.top_n,
        cut=Cut(kept_side=kept_side),
        gives_texts=body.return_text,
        raw_scores=body.raw_scores,
    )


def _of_documents(dialect: Dialect, body: RerankRequest) -> Ranking:
    max_tokens = body.max_tokens_per_doc or (CHUNK_TOKENS if body.long_documents == "max_chunk" else None)
    return Ranking(
        dialect=dialect,
        query=body.query,
        passages=tuple(passage_of(number, doc, body.rank_fields) for number, doc in enumerate(body.documents)),
        field="documents",
        top_n=body.top_n,
        cut=Cut(max_tokens, body.long_documents, body.max_chunks_per_doc),
        gives_texts=dialect is Dialect.JINA if body.return_documents is None else body.return_documents,
    )


def passage_of(number: int, document: str | DocumentBody, rank_fields: list[str] | None) -> Passage:
    """With one of `rank_fields` its value is the text; of several each is a line `name: value`, but for `title`.

    A field that a document lacks is left out of its text.

    Raises:
        RequestError: the document has no text.
    """
    if isinstance(document, str):
        return Passage(str(number), document)
    at = f"documents.{number}"
    if rank_fields is None:
        if document.text is None:
            raise RequestError(f"{at}.text: is missing; `rank_fields` can name other fields", field=f"{at}.text")
        return Passage(str(number), document.text, document.title or "")
    fields = {"text": document.text, "title": document.title, **(document.model_extra or {})}
    values = {name: _scalar(fields[name], f"{at}.{name}") for name in rank_fields if fields.get(name) is not None}
    if not values:
        raise RequestError(f"{at}: has none of the fields in `rank_fields`", field=at)
    if len(values) == 1:
        return Passage(str(number), next(iter(values.values())))
    title = values.pop("title", "")
    lines = values.values() if len(values) == 1 else [f"{name}: {value}" for name, value in values.items()]
    return Passage(str(number), "\n".join(lines), title)


def _scalar(value: Any, field: str) -> str:
    if not isinstance(value, str | int | float):
        raise RequestError(f"{field}: must be a text or a number to be ranked", field=field)
    return str(value)
