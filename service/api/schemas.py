"""What goes over HTTP, field by field. Limits that are settings are checked in limits.py."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.filters import Filters
from service.types import ContextOrder, Degradation

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
FilterValue = str | bool | int | FiniteFloat | None
Score = Annotated[float, Field(ge=0, le=1)]
PriorityName = Literal["interactive", "bulk"]

FILTERS = (
    "What the metadata of passages must be; applied within the search, so that `top_n` of those that pass are found."
)
PRIORITY = "Whether somebody waits for it: `bulk` work gives way to `interactive` work where the engine is busy."
DEADLINE = "Milliseconds the request has before it ends with a 504; goes before `X-Deadline-Ms`."


class GivenPassage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(None, min_length=1, description="What citations call it; its position, from 0, if null.")
    title: str | None = None
    text: str = Field(min_length=1)
    metadata: dict[str, FilterValue] | None = Field(None, description="Comes back with the passage.")


class MessageBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: str


class AnswerRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"question": "How high is Mont Blanc?", "top_n": 20, "top_k": 5},
                {
                    "messages": [
                        {"role": "user", "content": "How high is Mont Blanc?"},
                        {"role": "assistant", "content": "4,806 metres"},
                        {"role": "user", "content": "Who climbed it first?"},
                    ],
                    "rewrite": True,
                },
                {
                    "question": "Which of them is the highest?",
                    "filters": {"family": ["mountain", "volcano"], "not": {"country": "France"}},
                },
                {
                    "question": "How high is Mont Blanc?",
                    "passages": [
                        {"id": "rhine", "title": "Rhine", "text": "The Rhine is a river."},
                        {"id": "mont-blanc", "title": "Mont Blanc", "text": "Mont Blanc rises to 4,806 metres."},
                    ],
                },
            ]
        },
    )

    question: str | None = Field(None, min_length=1, description="What is asked; or give `messages`.")
    messages: list[MessageBody] | None = Field(
        None,
        min_length=1,
        description="A conversation instead of a `question`: the last message, which is the user's, is the question. "
        "The ones before it matter for `rewrite` alone.",
    )
    rewrite: bool = Field(
        False,
        description="Let the model first rewrite the last of `messages` as a question that stands by itself. Where "
        "that fails, it is asked as it is, with `rewrite_failed` in `degraded`.",
    )
    top_n: int | None = Field(None, ge=1, description="Passages to retrieve and score; the service's default if null.")
    top_k: int | None = Field(None, ge=1, description="Passages to keep for the answer, at most `top_n`.")
    filters: Filters | None = Field(None, description=FILTERS)
    passages: list[GivenPassage] | None = Field(
        None,
        min_length=1,
        description="Answer from these instead of the index, which is not needed then: they are scored, kept and "
        "cited like retrieved ones. Not with `filters` or `top_n`.",
    )
    min_relevance: float | None = Field(
        None, ge=0, le=1, description="Kept passages that score less stay out of the answer's prompt, unless all do."
    )
    context_order: ContextOrder = Field(
        "rank",
        description="How the passages stand in the answer's prompt: the best first, the best last (`reverse`), or the "
        "best at both ends (`edges`), since models read the middle of a long context least well.",
    )
    max_tokens: int | None = Field(None, ge=1, description="Longest answer, in tokens.")
    stream: bool = Field(False, description="Answer with server-sent events as things happen.")
    cache: bool = Field(True, description="False neither reads nor writes any cache.")
    deadline_ms: int | None = Field(None, ge=1, description=DEADLINE)
    priority: PriorityName = Field("interactive", description=PRIORITY)


class SearchRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"query": "How high is Mont Blanc?", "top_n": 20},
                {
                    "query": "long bridges",
                    "filters": {"family": "bridge", "or": [{"year": {"gte": 1900, "lt": 2000}}, {"year": None}]},
                },
            ]
        },
    )

    query: str = Field(min_length=1)
    top_n: int | None = Field(None, ge=1, description="Passages to retrieve; the service's default if null.")
    filters: Filters | None = Field(None, description=FILTERS)
    cache: bool = Field(True, description="False neither reads nor writes any cache.")
    deadline_ms: int | None = Field(None, ge=1, description=DEADLINE)


class FoundPassage(BaseModel):
    id: str
    title: str
    text: str
    retrieval_score: float | None
    retrieval_rank: int = Field(ge=1)
    metadata: dict[str, Any]


class SearchResponse(BaseModel):
    results: list[FoundPassage] = Field(description="Best first; equal scores by position in the index.")
    index_version: str
    timings_ms: dict[str, float]


class SourceBody(BaseModel):
    id: str = Field(description="A passage in `passages`.")


class CitationBody(BaseModel):
    start: int = Field(ge=0, description="First character of the cited words in `answer`.")
    end: int = Field(ge=0, description="One past the last.")
    text: str
    sources: list[SourceBody] = Field(
        description="Passages of the context that hold these very words, as the service has checked; case and white "
        "space aside."
    )


class PassageBody(BaseModel):
    id: str
    title: str
    text: str
    retrieval_score: float | None = Field(description="The retriever's; null for passages of the request.")
    retrieval_rank: int = Field(ge=1, description="Place in the retriever's order, or in the request's `passages`.")
    relevance_score: Score | None = Field(
        description="P(True) / (P(True) + P(False)), calibrated where the checkpoint says how; null if not scored."
    )
    label_mass: Score | None = Field(description="P(True) + P(False).")
    rank: int = Field(ge=1, description="Place after reranking.")
    in_context: bool = Field(description="Whether the answer was made from it: see `min_relevance`.")
    metadata: dict[str, Any]


class UsageBody(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    pairs_scored: int = Field(description="Pairs that the model scored for this request.")
    pairs_cached: int = Field(description="Pairs whose score was known.")


class AnswerResponse(BaseModel):
    answer: str
    rewritten_question: str | None = Field(description="What was asked instead, by `rewrite`.")
    citations: list[CitationBody]
    passages: list[PassageBody] = Field(description="What was kept, best first.")
    abstained: bool = Field(description="The passages do not hold the answer, says the model.")
    degraded: list[Degradation] = Field(
        description="What had to be left out to answer at all. `rerank_gated`: the checkpoint has not shown that "
        "it may rerank, and the retriever's order was kept. `rewrite_failed`: the question was asked as it came."
    )
    cached: bool
    model: str
    index_version: str
    usage: UsageBody
    timings_ms: dict[str, float] = Field(description="Milliseconds per stage; stages that did not run are absent.")


class ErrorDetail(BaseModel):
    type: str
    code: str
    message: str
    param: str | None = Field(description="The field that is wrong.")
    limit: int | None = Field(description="The limit that it violates.")


class ErrorBody(BaseModel):
    """The one shape of every error; `message` and `detail` repeat what rerank clients look for."""

    message: str
    detail: str
    error: ErrorDetail
    id: str | None = Field(description="The request id, as Cohere's clients look for it.")
    request_id: str | None


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class DependencyBody(BaseModel):
    ok: bool
    required: bool = Field(description="Whether the service is unready without it.")
    detail: str


class Readiness(BaseModel):
    ready: bool
    dependencies: dict[str, DependencyBody]
