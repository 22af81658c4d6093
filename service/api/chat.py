"""POST /v1/chat/completions: /answer for who speaks OpenAI's API.

The last message of the conversation is the question; the answer's citations come as `annotations`, and with their
passages as `citations`. What would change the answer elsewhere and can't here is refused rather than ignored.
"""

import time

from asgi_correlation_id import correlation_id
from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse

from service.api.access import KEY_NEEDED
from service.api.access_log import note_answer
from service.api.asking import CacheControl, DeadlineHeader, bounds, deadline_of, is_no_store
from service.api.chat_render import ChatChunks, Completion, completion_body
from service.api.chat_schemas import ChatRequest, ChatResponse
from service.api.deadline import Deadline
from service.api.errors import ENGINE_ERRORS, REQUEST_ERRORS, error_rows
from service.api.filters import as_filter
from service.api.limits import check_chat
from service.api.render import json_response, sse_events
from service.api.routes import check_rewrite
from service.api.services import Services, ServicesDep
from service.errors import IndexUnavailableError, RetrievalError
from service.types import Priority, Query

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    response_model=ChatResponse,
    operation_id="create_chat_completion",
    responses={
        200: {"content": {"text/event-stream": {}}},  # with `stream`
        **error_rows(*REQUEST_ERRORS, IndexUnavailableError, RetrievalError, *ENGINE_ERRORS),
    },
    dependencies=KEY_NEEDED,
    summary="Answer the last message of a conversation from the index, as OpenAI's API would",
)
async def chat_completions(
    request: Request, body: ChatRequest, services: ServicesDep,
    cache_control: CacheControl = None, x_deadline_ms: DeadlineHeader = None,
) -> Response:  # fmt: skip
    """Retrieve, score and answer as /answer does; `rag` has its options.

    One model is served, with its own system prompt and at temperature 0: `model`, system messages and what asks for
    randomness are accepted and change nothing.
    """
    check_chat(body, services.settings.limits)
    deadline = deadline_of(None, x_deadline_ms, services)
    query = _query(body, services, deadline, use_cache=not is_no_store(cache_control))
    check_rewrite(query, services)
    completion = Completion(f"chatcmpl-{correlation_id.get() or ''}", int(time.time()), services.model)
    if body.stream:
        async with bounds(request, deadline, services):
            events = await services.pipeline.begin(query)
        sent = sse_events(
            events, query.question, deadline, services, request.scope, ChatChunks(completion, body.wants_usage)
        )
        return EventSourceResponse(sent, ping=services.settings.keep_alive_s)
    async with bounds(request, deadline, services):
        result = await services.pipeline.answer(query)
    note_answer(request.scope, query.question, result, services)
    return json_response(completion_body(result, completion), result.timings)


def _query(body: ChatRequest, services: Services, deadline: Deadline, *, use_cache: bool) -> Query:
    settings, rag = services.settings, body.rag
    *earlier, last = body.conversation()
    return Query(
        question=last.text.strip(),
        top_n=rag.top_n or settings.top_n,
        top_k=rag.top_k or settings.top_k,
        max_tokens=body.max_completion_tokens or body.max_tokens or settings.max_tokens,
        min_relevance=settings.min_relevance if rag.min_relevance is None else rag.min_relevance,
        deadline_s=deadline.at_s,
        filters=as_filter(rag.filters),
        use_cache=use_cache,
        priority=Priority.ANSWER,
        context_order=rag.context_order,
        history=tuple(earlier) if rag.rewrite else (),
    )
