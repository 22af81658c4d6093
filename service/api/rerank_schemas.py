"""The bodies of /rerank, /v1/rerank and /v2/rerank: a superset of Cohere's, Jina's and vLLM's, and TEI's own."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, RootModel, Tag, model_validator

from service.api.schemas import DEADLINE, PRIORITY, ErrorBody, PriorityName, Score, UsageBody
from service.types import Degradation

LongDocuments = Literal["truncate", "max_chunk"]
Side = Literal["left", "right"]
TextsErrorType = Literal["Validation", "Overloaded", "Unhealthy", "Backend"]

_MONT_BLANC, _RHINE = "Mont Blanc rises to 4,806 metres.", "The Rhine is a river."
EXAMPLES: dict[str, Any] = {
    "documents": {
        "summary": "Texts and objects; the best alone",
        "value": {"query": "How high is Mont Blanc?", "documents": [_MONT_BLANC, {"text": _RHINE}], "top_n": 1},
    },
    "fields": {
        "summary": "Objects, of which some fields are ranked",
        "value": {
            "query": "How high is Mont Blanc?",
            "documents": [{"name": "Mont Blanc", "height": 4806, "url": "https://example.org/1"}],
            "rank_fields": ["name", "height"],
            "return_documents": True,
        },
    },
    "long": {
        "summary": "A long document is as relevant as the best of its chunks",
        "value": {
            "query": "How high is Mont Blanc?",
            "documents": [f"{_RHINE} {_MONT_BLANC}"],
            "max_tokens_per_doc": 256,
            "long_documents": "max_chunk",
        },
    },
}
TEXTS_EXAMPLE: dict[str, Any] = {
    "texts": {
        "summary": "As text-embeddings-inference is asked; the answer is a bare list",
        "value": {"query": "How high is Mont Blanc?", "texts": [_MONT_BLANC, _RHINE], "return_text": True},
    }
}


class DocumentBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: str | None = Field(None, description="What is ranked, where `rank_fields` says nothing else.")
    title: str | None = None


def _shape(document: Any) -> str:
    return "string" if isinstance(document, str) else "object"


Document = Annotated[Annotated[str, Tag("string")] | Annotated[DocumentBody, Tag("object")], Discriminator(_shape)]


def _priority_name(given: object) -> object:
    """Other rerankers' clients send a number, lower first, of which 0 is the default."""
    if isinstance(given, int) and not isinstance(given, bool):
        return "bulk" if given > 0 else "interactive"
    return given


def _small(given: object) -> object:
    return given.lower() if isinstance(given, str) else given


class _Rerank(BaseModel):
    """What may be asked in any dialect. Unknown fields are ignored, and null is as good as absent."""

    model_config = ConfigDict(extra="ignore")

    query: str = Field(min_length=1)
    cache: bool = Field(True, description="False neither reads nor writes any cache.")
    deadline_ms: int | None = Field(None, ge=1, description=DEADLINE)
    priority: Annotated[PriorityName, BeforeValidator(_priority_name, json_schema_input_type=PriorityName | int)] = (
        Field("interactive", description=f"{PRIORITY} Of numbers, which other clients send, those above 0 are `bulk`.")
    )
    allow_partial: bool = Field(
        False, description="Whether the documents that were scored by the deadline will do; otherwise it is a 504."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: value for name, value in given.items() if value is not None}


class RerankRequest(_Rerank):
    documents: list[Document] = Field(min_length=1, description="Texts, or objects with `text` and maybe `title`.")
    top_n: int | None = Field(None, ge=0, description="How many results; null, 0 or more than there are means all.")
    return_documents: bool | None = Field(
        None, description="Give the texts back. If null: true on /v1/rerank, as Jina does, otherwise false."
    )
    rank_fields: list[str] | None = Field(
        None, min_length=1, description="Which fields of the objects make up the text, in this order; `text` if null."
    )
    max_tokens_per_doc: int | None = Field(
        None, ge=0, description="Tokens of a document that are scored; null or 0: as many as the checkpoint takes."
    )
    long_documents: LongDocuments = Field(
        "truncate",
        description="Of a longer document only the beginning counts, or it is scored in chunks of at most "
        "`max_tokens_per_doc` tokens (512 if null) and is as relevant as the best of them.",
    )
    max_chunks_per_doc: int | None = Field(
        None, ge=1, description="With `max_chunk`: only so many chunks of a document, the first ones; all if null."
    )
    model: str | None = Field(None, description="Accepted for other rerankers' clients; one model is served.")


class TextsRequest(_Rerank):
    """TEI's. A text that is too long is cut, whatever `truncate` says."""

    texts: list[str] = Field(min_length=1)
    top_n: int | None = Field(None, ge=0, description="How many; null, 0 or more than there are means all.")
    raw_scores: bool = Field(False, description="The log-odds of the relevance instead of the relevance.")
    return_text: bool = False
    truncation_direction: Annotated[Side, BeforeValidator(_small, json_schema_input_type=Side | str)] = Field(
        "right", description="The end of a text that is too long which is cut off."
    )


def _fields(given: Any) -> str:
    is_tei = isinstance(given, TextsRequest) or (isinstance(given, Mapping) and is_of_texts(given))
    return "by_texts" if is_tei else "by_documents"


def is_of_texts(body: Mapping[str, Any]) -> bool:
    """Whether it is for a TextsRequest: TEI's clients alone send `texts`."""
    return body.get("texts") is not None and body.get("documents") is None


EitherRequest = Annotated[
    Annotated[RerankRequest, Tag("by_documents")] | Annotated[TextsRequest, Tag("by_texts")], Discriminator(_fields)
]


class ReturnedDocument(BaseModel):
    text: str


class _Result(BaseModel):
    index: int = Field(ge=0, description="Position in the request's `documents`.")
    relevance_score: Score


class RerankResult(_Result):
    document: ReturnedDocument | None = None


class TextResult(_Result):
    document: str | None = None


class ApiVersion(BaseModel):
    version: str = Field(description="Cohere's, whose dialect this is.")


class TokensBody(BaseModel):
    input_tokens: int
    output_tokens: int


class RerankMeta(BaseModel):
    api_version: ApiVersion
    tokens: TokensBody
    prompt: str = Field(description="The prompt set that was used.")
    timings_ms: dict[str, float]
    pairs_unscored: int = Field(
        description="Pairs without a score, not in `results`: the best `top_n` were settled before them, or the time "
        "was over (then `degraded` says so)."
    )


_RESULTS = "The documents that were scored, best first; equal scores in the order of the request."


class _Response(BaseModel):
    id: str = Field(description="The request id.")
    object: Literal["list"] = "list"
    model: str
    degraded: list[Degradation] = Field(
        description="`rerank_partial`: the time was over before all were scored; see `allow_partial`."
    )
    usage: UsageBody
    meta: RerankMeta


class RerankResponse(_Response):
    results: list[RerankResult] = Field(description=_RESULTS)


class InfinityResponse(_Response):
    """Documents that are given back are plain texts, as Infinity's clients want them."""

    results: list[TextResult] = Field(description=_RESULTS)


class TextRank(BaseModel):
    index: int = Field(ge=0, description="Position in the request's `texts`.")
    score: float
    text: str | None = None


class TextRanks(RootModel[list[TextRank]]):
    """The texts that were scored, best first."""


class EitherResponse(RootModel[RerankResponse | TextRanks]):
    """The one for `documents`, the list for `texts`."""


class TextsErrorBody(BaseModel):
    """The same error where `texts` were sent: TEI's clients take `error` for a text."""

    message: str
    detail: str
    error: str
    error_type: TextsErrorType
    id: str | None
    request_id: str | None


class EitherErrorBody(RootModel[ErrorBody | TextsErrorBody]):
    """The second where `texts` were sent."""
