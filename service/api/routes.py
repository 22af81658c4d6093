"""/answer and /rerank: parse, call, render."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from asgi_correlation_id import correlation_id
from fastapi import APIRouter, Header, Request, Response
from sse_starlette import EventSourceResponse

from service.api.access_log import note_answer, note_scores
from service.api.deadline import Deadline, while_connected
from service.api.errors import error_rows
from service.api.limits import check_answer, check_deadline_header, check_rerank
from service.api.render import answer_body, json_response, rerank_body, sse_events
from service.api.schemas import (
    AnswerRequest,
    AnswerResponse,
    DocumentBody,
    GivenPassage,
    RerankRequest,
    RerankResponse,
)
from service.api.services import Services, ServicesDep
from service.core.ranking import order_by_relevance
from service.errors import (
    DeadlineError,
    EngineError,
    EngineOverloadedError,
    EngineRefusedError,
    IndexUnavailableError,
    OverloadedError,
    RankRAGError,
    RequestError,
    RerankGatedError,
    RetrievalError,
    TooLargeError,
)
from service.pipeline import Stopwatch, note_scoring
from service.types import Passage, Priority, Query

router = APIRouter()

# The scorer itself gives what it has at the deadline; this much later it is cut off without.
PARTIAL_GRACE_S = 0.25

_ANSWER_PRIORITIES = {"interactive": Priority.ANSWER, "bulk": Priority.BULK}
_RERANK_PRIORITIES = {"interactive": Priority.INTERACTIVE, "bulk": Priority.BULK}
_ENGINE_ERRORS = (
    OverloadedError, EngineError, EngineOverloadedError, EngineRefusedError, DeadlineError, RankRAGError,
)  # fmt: skip

CacheControl = Annotated[str | None, Header(description="`no-store` neither reads nor writes any cache.")]
DeadlineHeader = Annotated[
    int | None, Header(alias="X-Deadline-Ms", ge=1, description="As `deadline_ms`, where the body has none.")
]


@router.post(
    "/answer",
    response_model=AnswerResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},  # with `stream`
        **error_rows(RequestError, TooLargeError, IndexUnavailableError, RetrievalError, *_ENGINE_ERRORS),
    },
    summary="Answer a question from the index, or from given passages",
)
async def answer(
    request: Request, body: AnswerRequest, services: ServicesDep,
    cache_control: CacheControl = None, x_deadline_ms: DeadlineHeader = None,
) -> Response:  # fmt: skip
    """Retrieve `top_n` passages or take `passages`; score each with P(True), keep `top_k`, answer from them."""
    check_answer(body, services.settings.limits)
    deadline = _deadline(body.deadline_ms, x_deadline_ms, services)
    query = _query(body, services, deadline, is_no_store(cache_control))
    if body.stream:
        async with _bounds(request, deadline, services):
            events = await services.pipeline.begin(query)
        return EventSourceResponse(sse_events(events, body.question, deadline, services, request.scope), ping=10)
    async with _bounds(request, deadline, services):
        result = await services.pipeline.answer(query)
    note_answer(request.scope, body.question, result, services)
    return json_response(answer_body(result, services), result.timings)


@router.post(
    "/rerank",
    response_model=RerankResponse,
    responses=error_rows(RequestError, TooLargeError, RerankGatedError, *_ENGINE_ERRORS),
    summary="Order documents by relevance to a query",
)
async def rerank(
    request: Request, body: RerankRequest, services: ServicesDep,
    cache_control: CacheControl = None, x_deadline_ms: DeadlineHeader = None,
) -> Response:  # fmt: skip
    """Score every (query, document) pair with P(True); needs no index.

    With `top_n`, scoring may end once the best so many are settled.
    """
    check_rerank(body, services.settings.limits)
    watch = Stopwatch(services.clock, services.tracer)
    deadline = _deadline(body.deadline_ms, x_deadline_ms, services)
    passages = [_passage(number, document) for number, document in enumerate(body.documents)]
    grace_s = PARTIAL_GRACE_S if body.allow_partial else 0.0
    async with _bounds(request, deadline, services, grace_s=grace_s):
        with watch.stage("score") as span:
            scored = await services.scorer.score(
                body.query, passages, deadline_s=deadline.at_s, use_cache=body.cache and not is_no_store(cache_control),
                priority=_RERANK_PRIORITIES[body.priority], top_k=_top_k(body), allow_partial=body.allow_partial,
            )  # fmt: skip
            note_scoring(span, scored)
    timings = watch.timings()
    note_scores(request.scope, body.query, passages, scored, timings, services)
    with services.tracer.stage("keep") as span:
        order = order_by_relevance(scored.scores)[: body.top_n or None]
        span.set(num_kept=len(order))
    rendered = rerank_body(body, scored, order, timings, services, request_id=correlation_id.get() or "")
    return json_response(rendered, timings, exclude_none=True)


def is_no_store(cache_control: str | None) -> bool:
    directives = (cache_control or "").lower().split(",")
    return "no-store" in (directive.strip() for directive in directives)


def _deadline(body_ms: int | None, header_ms: int | None, services: Services) -> Deadline:
    """The moment by which this request must be done, made here once: by its body, its header or the settings."""
    check_deadline_header(header_ms, services.settings.limits)
    asked_ms = body_ms or header_ms
    within_s = asked_ms / 1000 if asked_ms else services.settings.request_timeout_s
    return Deadline(services.clock() + within_s, within_s)


def _query(body: AnswerRequest, services: Services, deadline: Deadline, no_store: bool) -> Query:
    settings = services.settings
    return Query(
        question=body.question.strip(),
        top_n=body.top_n or settings.top_n,
        top_k=body.top_k or settings.top_k,
        max_tokens=body.max_tokens or settings.max_tokens,
        min_relevance=settings.min_relevance if body.min_relevance is None else body.min_relevance,
        deadline_s=deadline.at_s,
        filters=body.filters or {},
        use_cache=body.cache and not no_store,
        priority=_ANSWER_PRIORITIES[body.priority],
        passages=None if body.passages is None else given_passages(body.passages),
    )


def given_passages(bodies: Sequence[GivenPassage]) -> tuple[Passage, ...]:
    """Those without an id are called by their position, from 0.

    Raises:
        RequestError: two have the same id, so that a citation would not say which.
    """
    passages = tuple(
        Passage(str(number) if body.id is None else body.id, body.text, body.title or "", body.metadata or {})
        for number, body in enumerate(bodies)
    )
    first: dict[str, int] = {}
    for number, passage in enumerate(passages):
        if first.setdefault(passage.id, number) != number:
            field = f"passages.{number}.id"
            raise RequestError(f"{field}: {passage.id!r} is the id of passages.{first[passage.id]} too", field=field)
    return passages


def _passage(number: int, document: str | DocumentBody) -> Passage:
    if isinstance(document, DocumentBody):
        return Passage(str(number), document.text, document.title or "")
    return Passage(str(number), document)


def _top_k(body: RerankRequest) -> int | None:
    """How many of the documents are wanted, if not all."""
    return body.top_n if body.top_n and body.top_n < len(body.documents) else None


@asynccontextmanager
async def _bounds(
    request: Request, deadline: Deadline, services: Services, *, grace_s: float = 0.0
) -> AsyncIterator[None]:
    """Nothing outlives the request's deadline or its client, whatever it waits for."""
    async with while_connected(request), deadline.limit(services.clock, grace_s=grace_s):
        yield
