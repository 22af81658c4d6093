"""The service's values as HTTP bodies, headers and events."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any, Protocol

import structlog
from pydantic import BaseModel
from sse_starlette import ServerSentEvent
from starlette.responses import Response
from starlette.types import Scope

from service.api.access_log import note_answer, tell, timings_ms
from service.api.deadline import Deadline
from service.api.errors import as_service_error, error_body
from service.api.schemas import (
    AnswerResponse,
    CitationBody,
    FoundPassage,
    PassageBody,
    SearchResponse,
    SourceBody,
    UsageBody,
)
from service.api.services import Services
from service.errors import RankRAGError
from service.pipeline import Delta, Event, Reranked, Retrieved
from service.types import Answer, Citation, RetrievedPassage, ScoredPassage, Timings, Usage

log = structlog.get_logger(__name__)


def json_response(
    body: BaseModel, timings: Timings, *, exclude_none: bool = False, headers: Mapping[str, str] | None = None
) -> Response:
    """`body` as it is: FastAPI would validate and copy it once more."""
    told = {"Server-Timing": server_timing(timings), **(headers or {})}
    return Response(body.model_dump_json(exclude_none=exclude_none), media_type="application/json", headers=told)


def answer_body(answer: Answer, services: Services) -> AnswerResponse:
    return AnswerResponse(
        answer=answer.text,
        rewritten_question=answer.rewritten_question,
        citations=[citation_body(citation) for citation in answer.citations],
        passages=[passage_body(passage) for passage in answer.passages],
        abstained=answer.abstained,
        degraded=list(answer.degraded),
        cached=answer.is_cached,
        model=services.model,
        index_version=services.index_version,
        usage=usage_body(answer.usage),
        timings_ms=timings_ms(answer.timings),
    )


def citation_body(citation: Citation) -> CitationBody:
    sources = [SourceBody(id=id_) for id_ in citation.passage_ids]
    return CitationBody(start=citation.start, end=citation.end, text=citation.text, sources=sources)


def passage_body(scored: ScoredPassage) -> PassageBody:
    passage = scored.passage
    return PassageBody(
        id=passage.id,
        title=passage.title,
        text=passage.text,
        retrieval_score=scored.retrieved.retrieval_score,
        retrieval_rank=scored.retrieved.retrieval_rank,
        relevance_score=scored.score.relevance if scored.score else None,
        label_mass=scored.score.label_mass if scored.score else None,
        rank=scored.rank,
        in_context=scored.is_in_context,
        metadata=dict(passage.metadata),
    )


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        pairs_scored=usage.pairs_scored,
        pairs_cached=usage.pairs_cached,
    )


def server_timing(timings: Timings) -> str:
    """The `Server-Timing` header: https://www.w3.org/TR/server-timing/"""
    return ", ".join(f"{name};dur={ms}" for name, ms in timings_ms(timings).items())


def search_body(found: Sequence[RetrievedPassage], timings: Timings, services: Services) -> SearchResponse:
    return SearchResponse(
        results=[
            FoundPassage(
                id=one.passage.id,
                title=one.passage.title,
                text=one.passage.text,
                retrieval_score=one.retrieval_score,
                retrieval_rank=one.retrieval_rank,
                metadata=dict(one.passage.metadata),
            )
            for one in found
        ],
        index_version=services.index_version,
        timings_ms=timings_ms(timings),
    )


class Wording(Protocol):
    """How the events of one answer are told, in their order."""

    def tell(self, event: Event) -> Iterator[ServerSentEvent]: ...

    def fail(self, error: RankRAGError) -> Iterator[ServerSentEvent]:
        """The last one: there will be no answer."""
        ...


async def sse_events(
    begun: AsyncGenerator[Event, None], question: str, deadline: Deadline, services: Services, scope: Scope,
    wording: Wording,
) -> AsyncIterator[ServerSentEvent]:  # fmt: skip
    """Everything that happens to one question, as `wording` tells it; an error ends it."""
    try:
        async with aclosing(begun) as events:
            while (event := await _before(deadline, events, services)) is not None:
                if isinstance(event, Answer):
                    note_answer(scope, question, event, services)
                for sent in wording.tell(event):
                    yield sent
    except Exception as exc:
        error = as_service_error(exc)
        services.metrics.errors.labels(error.code).inc()
        tell(scope, error=error.code)
        if error is not exc and error.status == 500:
            log.exception("unexpected_error")
        for sent in wording.fail(error):
            yield sent


async def _before(deadline: Deadline, events: AsyncIterator[Event], services: Services) -> Event | None:
    """The next event, if it comes by the deadline; a slow reader's time between events is not counted twice."""
    async with deadline.limit(services.clock):
        return await anext(events, None)


class AnswerWording:
    """`search_results`, `rerank`, `answer.delta`s, `citation`s and `final`; or `error` at any point as the last one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._numbers = count(1)

    def tell(self, event: Event) -> Iterator[ServerSentEvent]:
        yield _sse(next(self._numbers), *_event(event, self._services))

    def fail(self, error: RankRAGError) -> Iterator[ServerSentEvent]:
        yield _sse(next(self._numbers), "error", error_body(error).model_dump())


def _event(event: Event, services: Services) -> tuple[str, dict[str, Any]]:
    match event:
        case Retrieved(passages, rewritten):
            return "search_results", {
                "passages": [_found(passage) for passage in passages], "rewritten_question": rewritten,
            }  # fmt: skip
        case Reranked(passages, degraded):
            bodies = [passage_body(passage).model_dump() for passage in passages]
            return "rerank", {"passages": bodies, "degraded": list(degraded)}
        case Delta(text):
            return "answer.delta", {"text": text}
        case Citation():
            return "citation", citation_body(event).model_dump()
        case Answer():
            return "final", answer_body(event, services).model_dump()


def _found(found: RetrievedPassage) -> dict[str, Any]:
    passage = found.passage
    scores = {"retrieval_score": found.retrieval_score, "retrieval_rank": found.retrieval_rank}
    return {"id": passage.id, "title": passage.title, **scores}


def _sse(number: int, kind: str, data: dict[str, Any]) -> ServerSentEvent:
    body = json.dumps({"type": kind, **data}, ensure_ascii=False)
    return ServerSentEvent(body, event=kind, id=str(number))
