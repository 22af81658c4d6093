"""/answer and /rerank: parse, call, render."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from asgi_correlation_id import correlation_id
from fastapi import APIRouter, Header, Response
from sse_starlette import EventSourceResponse

from service.api.errors import error_rows
from service.api.limits import check_answer, check_rerank
from service.api.render import answer_body, rerank_body, server_timing, sse_events
from service.api.schemas import AnswerRequest, AnswerResponse, DocumentBody, RerankRequest, RerankResponse
from service.api.services import Services, ServicesDep
from service.core.ranking import order_by_relevance
from service.errors import (
    DeadlineError,
    EngineError,
    EngineOverloadedError,
    EngineRefusedError,
    IndexUnavailableError,
    RankRAGError,
    RequestError,
    RetrievalError,
    TooLargeError,
)
from service.pipeline import Pipeline
from service.types import Passage, Query, Timings

router = APIRouter()

_ENGINE_ERRORS = (EngineError, EngineOverloadedError, EngineRefusedError, DeadlineError, RankRAGError)
CacheControl = Annotated[str | None, Header(description="`no-store` neither reads nor writes any cache.")]


@router.post(
    "/answer",
    response_model=AnswerResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},  # with `stream`
        **error_rows(RequestError, TooLargeError, IndexUnavailableError, RetrievalError, *_ENGINE_ERRORS),
    },
    summary="Answer a question from the index",
)
async def answer(
    body: AnswerRequest, services: ServicesDep, response: Response, cache_control: CacheControl = None
) -> AnswerResponse | Response:
    """Retrieve `top_n` passages, score each with P(True), keep the best `top_k`, answer from them."""
    check_answer(body, services.settings.limits)
    pipeline = _open_pipeline(services)
    query = _query(body, services, is_no_store(cache_control))
    if body.stream:
        services.require_engine()
        return EventSourceResponse(sse_events(pipeline, query, services), ping=10)
    async with _deadline(query.deadline_s, services):
        result = await pipeline.answer(query)
    services.metrics.observe_answer(result)
    response.headers["Server-Timing"] = server_timing(result.timings)
    return answer_body(result, services)


@router.post(
    "/rerank",
    response_model=RerankResponse,
    response_model_exclude_none=True,
    responses=error_rows(RequestError, TooLargeError, *_ENGINE_ERRORS),
    summary="Order documents by relevance to a query",
)
async def rerank(
    body: RerankRequest, services: ServicesDep, response: Response, cache_control: CacheControl = None
) -> RerankResponse:
    """Score every (query, document) pair with P(True); needs no index."""
    check_rerank(body, services.settings.limits)
    begun_s = services.clock()
    deadline_s = begun_s + services.settings.request_timeout_s
    passages = [_passage(number, document) for number, document in enumerate(body.documents)]
    async with _deadline(deadline_s, services):
        scored = await services.scorer.score(
            body.query, passages, deadline_s=deadline_s, use_cache=body.cache and not is_no_store(cache_control)
        )
    took_s = services.clock() - begun_s
    timings = Timings(score_s=took_s, total_s=took_s)
    services.metrics.observe_scores(scored.scores, scored.usage, timings)
    response.headers["Server-Timing"] = server_timing(timings)
    order = order_by_relevance(scored.scores)[: body.top_n or None]
    return rerank_body(body, scored, order, timings, services, request_id=correlation_id.get() or "")


def is_no_store(cache_control: str | None) -> bool:
    directives = (cache_control or "").lower().split(",")
    return "no-store" in (directive.strip() for directive in directives)


def _open_pipeline(services: Services) -> Pipeline:
    if services.pipeline is None:
        raise IndexUnavailableError("no index is loaded: set RANKRAG_INDEX__PATH to one built by `rankrag index build`")
    return services.pipeline


def _query(body: AnswerRequest, services: Services, no_store: bool) -> Query:
    settings = services.settings
    return Query(
        question=body.question.strip(),
        top_n=body.top_n or settings.top_n,
        top_k=body.top_k or settings.top_k,
        max_tokens=body.max_tokens or settings.max_tokens,
        min_relevance=settings.min_relevance if body.min_relevance is None else body.min_relevance,
        deadline_s=services.clock() + settings.request_timeout_s,
        filters=body.filters or {},
        use_cache=body.cache and not no_store,
    )


def _passage(number: int, document: str | DocumentBody) -> Passage:
    if isinstance(document, DocumentBody):
        return Passage(str(number), document.text, document.title or "")
    return Passage(str(number), document)


@asynccontextmanager
async def _deadline(deadline_s: float, services: Services) -> AsyncIterator[None]:
    """Nothing outlives the request's deadline, whatever it waits for."""
    try:
        async with asyncio.timeout(deadline_s - services.clock()):
            yield
    except TimeoutError as exc:
        raise DeadlineError(f"not done within {services.settings.request_timeout_s:g} s") from exc
