"""/answer and /search: parse, call, render."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse

from service.api.access import KEY_NEEDED
from service.api.access_log import note_answer, note_search
from service.api.asking import CacheControl, DeadlineHeader, bounds, deadline_of, is_no_store
from service.api.deadline import Deadline
from service.api.errors import ENGINE_ERRORS, REQUEST_ERRORS, error_rows
from service.api.filters import as_filter
from service.api.limits import check_answer, check_search
from service.api.links import AFTER_ANSWER, AFTER_SEARCH
from service.api.render import AnswerWording, answer_body, json_response, search_body, sse_events
from service.api.schemas import AnswerRequest, AnswerResponse, GivenPassage, MessageBody, SearchRequest, SearchResponse
from service.api.services import Services, ServicesDep
from service.errors import (
    DeadlineError,
    IndexUnavailableError,
    RankRAGError,
    RequestError,
    RetrievalError,
    ShuttingDownError,
)
from service.types import Passage, Priority, Query, Turn

router = APIRouter()

_ANSWER_PRIORITIES = {"interactive": Priority.ANSWER, "bulk": Priority.BULK}


@router.post(
    "/answer",
    response_model=AnswerResponse,
    operation_id="answer",
    responses={
        200: {"content": {"text/event-stream": {}}, "links": AFTER_ANSWER},  # events with `stream`
        **error_rows(*REQUEST_ERRORS, IndexUnavailableError, RetrievalError, *ENGINE_ERRORS),
    },
    dependencies=KEY_NEEDED,
    summary="Answer a question from the index, or from given passages",
)
async def answer(
    request: Request, body: AnswerRequest, services: ServicesDep,
    cache_control: CacheControl = None, x_deadline_ms: DeadlineHeader = None,
) -> Response:  # fmt: skip
    """Retrieve `top_n` passages or take `passages`; score each with P(True), keep `top_k`, answer from them."""
    check_answer(body, services.settings.limits)
    deadline = deadline_of(body.deadline_ms, x_deadline_ms, services)
    query = _query(body, services, deadline, is_no_store(cache_control))
    check_rewrite(query, services)
    if body.stream:
        async with bounds(request, deadline, services):
            events = await services.pipeline.begin(query)
        sent = sse_events(events, query.question, deadline, services, request.scope, AnswerWording(services))
        return EventSourceResponse(sent, ping=services.settings.keep_alive_s)
    async with bounds(request, deadline, services):
        result = await services.pipeline.answer(query)
    note_answer(request.scope, query.question, result, services)
    return json_response(answer_body(result, services), result.timings)


@router.post(
    "/search",
    response_model=SearchResponse,
    operation_id="search",
    responses={
        200: {"links": AFTER_SEARCH},
        **error_rows(
            *REQUEST_ERRORS, IndexUnavailableError, RetrievalError, DeadlineError, ShuttingDownError, RankRAGError
        ),
    },
    dependencies=KEY_NEEDED,
    summary="Find passages in the index, without reranking",
)
async def search(
    request: Request, body: SearchRequest, services: ServicesDep,
    cache_control: CacheControl = None, x_deadline_ms: DeadlineHeader = None,
) -> Response:  # fmt: skip
    """The retriever alone: what /answer would score, in the retriever's order. No engine is needed."""
    check_search(body, services.settings.limits)
    deadline = deadline_of(body.deadline_ms, x_deadline_ms, services)
    async with bounds(request, deadline, services):
        found, timings = await services.pipeline.search(
            body.query.strip(), top_n=body.top_n or services.settings.top_n, filters=as_filter(body.filters),
            use_cache=body.cache and not is_no_store(cache_control), deadline_s=deadline.at_s,
        )  # fmt: skip
    note_search(request.scope, body.query, found, timings, services)
    return json_response(search_body(found, timings, services), timings)


def _query(body: AnswerRequest, services: Services, deadline: Deadline, no_store: bool) -> Query:
    settings = services.settings
    question, history = asked(body.messages) if body.messages else (body.question or "", ())
    return Query(
        question=question.strip(),
        top_n=body.top_n or settings.top_n,
        top_k=body.top_k or settings.top_k,
        max_tokens=body.max_tokens or settings.max_tokens,
        min_relevance=settings.min_relevance if body.min_relevance is None else body.min_relevance,
        deadline_s=deadline.at_s,
        filters=as_filter(body.filters),
        context_order=body.context_order,
        history=history if body.rewrite else (),
        use_cache=body.cache and not no_store,
        priority=_ANSWER_PRIORITIES[body.priority],
        passages=None if body.passages is None else given_passages(body.passages),
    )


def asked(messages: Sequence[MessageBody]) -> tuple[str, tuple[Turn, ...]]:
    """The question, which is the last one, and what was said before."""
    *earlier, last = messages
    return last.content, tuple(Turn(message.role, message.content) for message in earlier)


def check_rewrite(query: Query, services: Services) -> None:
    """Raises RequestError where a question is to be rewritten, but nobody has said how."""
    if query.history and services.prompts.rewrite is None:
        raise RequestError(f"rewrite: the prompt set {services.prompts.id} has no prompt for it", field="rewrite")


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
