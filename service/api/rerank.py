"""/rerank, /v1/rerank and /v2/rerank: parse, call, render."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from asgi_correlation_id import correlation_id
from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel

from service.api.access import KEY_NEEDED
from service.api.access_log import note_scores, timings_ms
from service.api.asking import CacheControl, DeadlineHeader, bounds, deadline_of, is_no_store
from service.api.deadline import Deadline
from service.api.dialects import Dialect, Ranking, dialect_of, priority_of, ranking_of
from service.api.errors import ENGINE_ERRORS, REQUEST_ERRORS, error_rows
from service.api.limits import check_rerank
from service.api.render import json_response, usage_body
from service.api.rerank_schemas import (
    EXAMPLES,
    TEXTS_EXAMPLE,
    ApiVersion,
    EitherErrorBody,
    EitherRequest,
    EitherResponse,
    InfinityResponse,
    RerankMeta,
    RerankRequest,
    RerankResponse,
    RerankResult,
    ReturnedDocument,
    TextRank,
    TextRanks,
    TextResult,
    TextsRequest,
    TokensBody,
)
from service.api.services import Services, ServicesDep
from service.core.ranking import best_of_parts, order_by_relevance
from service.core.scoring import UNCALIBRATED
from service.errors import RerankGatedError
from service.pipeline import Stopwatch, degradation, note_scoring
from service.ports import Scores
from service.types import Passage, Score, Timings

router = APIRouter()

# The scorer itself gives what it has at the deadline; this much later it is cut off without.
PARTIAL_GRACE_S = 0.25

_ERRORS: Final = (*REQUEST_ERRORS, RerankGatedError, *ENGINE_ERRORS)
_EitherBody = Annotated[EitherRequest, Body(openapi_examples={**EXAMPLES, **TEXTS_EXAMPLE})]
_DocumentsBody = Annotated[RerankRequest, Body(openapi_examples=EXAMPLES)]


@router.post(
    "/rerank",
    operation_id="rerank",
    response_model=EitherResponse,
    responses=error_rows(*_ERRORS, model=EitherErrorBody),
    dependencies=KEY_NEEDED,
    summary="Order documents by relevance to a query",
)
async def rerank(
    request: Request, body: _EitherBody, services: ServicesDep,
    cache_control: CacheControl = None, x_deadline_ms: DeadlineHeader = None,
) -> Response:  # fmt: skip
    """Score every (query, document) pair with P(True); needs no index.

    With `top_n`, scoring may end once the best so many are settled. Asked with `texts` instead of `documents`, as
    text-embeddings-inference is, it answers as that does.
    """
    return await _respond(request, body, services, cache_control, x_deadline_ms)


@router.post(
    "/v1/rerank",
    operation_id="rerank_v1",
    response_model=RerankResponse,
    responses=error_rows(*_ERRORS),
    dependencies=KEY_NEEDED,
    summary="As Jina and Cohere v1",
)
@router.post(
    "/v2/rerank",
    operation_id="rerank_v2",
    response_model=RerankResponse,
    responses=error_rows(*_ERRORS),
    dependencies=KEY_NEEDED,
    summary="As Cohere v2",
)
async def rerank_documents(
    request: Request, body: _DocumentsBody, services: ServicesDep,
    cache_control: CacheControl = None, x_deadline_ms: DeadlineHeader = None,
) -> Response:  # fmt: skip
    """The same as /rerank under the paths that clients have built in."""
    return await _respond(request, body, services, cache_control, x_deadline_ms)


@router.post(
    "/infinity/rerank",
    operation_id="rerank_infinity",
    response_model=InfinityResponse,
    responses=error_rows(*_ERRORS),
    dependencies=KEY_NEEDED,
    summary="As Infinity",
)
async def rerank_infinity(
    request: Request, body: _DocumentsBody, services: ServicesDep,
    cache_control: CacheControl = None, x_deadline_ms: DeadlineHeader = None,
) -> Response:  # fmt: skip
    """The same again; but documents that are given back are plain texts, which Infinity's clients insist on."""
    return await _respond(request, body, services, cache_control, x_deadline_ms)


async def _respond(
    request: Request, body: RerankRequest | TextsRequest, services: Services, cache_control: str | None,
    x_deadline_ms: int | None,
) -> Response:  # fmt: skip
    dialect = _dialect(request, body)
    request.state.dialect = dialect
    ranking = ranking_of(dialect, body)
    check_rerank(ranking, body.deadline_ms, services.settings.limits)
    deadline = deadline_of(body.deadline_ms, x_deadline_ms, services)
    use_cache = body.cache and not is_no_store(cache_control)
    watch = Stopwatch(services.clock, services.tracer)
    ranked = await _rank(request, body, ranking, deadline, services, watch, use_cache=use_cache)
    timings = watch.timings()
    note_scores(request.scope, ranking.query, ranking.passages, ranked.scored, timings, services)
    rendered, headers = _rendered(ranking, ranked, timings, services)
    return json_response(rendered, timings, exclude_none=True, headers=headers)


def _dialect(request: Request, body: RerankRequest | TextsRequest) -> Dialect:
    path: str = request.scope["route"].path
    found = dialect_of(path, {"texts": []} if isinstance(body, TextsRequest) else {})
    assert found is not None
    return found


@dataclass(frozen=True, slots=True)
class Ranked:
    """`scores` are the documents', best part each; `order` are the indices of those that are wanted, best first."""

    scored: Scores
    scores: Sequence[Score | None]
    order: Sequence[int]


async def _rank(
    request: Request, body: RerankRequest | TextsRequest, ranking: Ranking, deadline: Deadline, services: Services,
    watch: Stopwatch, *, use_cache: bool,
) -> Ranked:  # fmt: skip
    grace_s = PARTIAL_GRACE_S if body.allow_partial else 0.0
    async with bounds(request, deadline, services, grace_s=grace_s):
        with watch.stage("score") as span:
            parts = await _parts(ranking, services)
            is_whole = len(parts) == sum(map(len, parts))
            scored = await services.scorer.score(
                ranking.query, [part for of_one in parts for part in of_one], deadline_s=deadline.at_s,
                use_cache=use_cache, priority=priority_of(body), allow_partial=body.allow_partial,
                top_k=ranking.top_k if is_whole else None,  # the best parts may all be of one document
            )  # fmt: skip
            note_scoring(span, scored)
    with services.tracer.stage("keep") as span:
        scores = best_of_parts(scored.scores, [len(of_one) for of_one in parts])
        order = order_by_relevance(scores)[: ranking.top_n or None]
        span.set(num_kept=len(order))
    return Ranked(scored, scores, order)


async def _parts(ranking: Ranking, services: Services) -> list[list[Passage]]:
    """What is scored of each document."""
    cut = ranking.cut
    if not cut.is_needed:
        return [[passage] for passage in ranking.passages]
    if cut.is_chunked:
        return await services.cutter.chunks(
            ranking.query, ranking.passages, max_tokens=cut.max_tokens,
            max_chunks=services.settings.limits.max_chunks, max_chunks_per_document=cut.max_chunks,
        )  # fmt: skip
    passages = await services.cutter.cut(
        ranking.query, ranking.passages, max_tokens=cut.max_tokens, keeps_end=cut.kept_side == "right"
    )
    return [[passage] for passage in passages]


def _rendered(
    ranking: Ranking, ranked: Ranked, timings: Timings, services: Services
) -> tuple[BaseModel, dict[str, str]]:
    if ranking.dialect is Dialect.TEI:
        return text_ranks(ranking, ranked), tei_headers(ranking, ranked, timings)
    as_body = infinity_body if ranking.dialect is Dialect.INFINITY else rerank_body
    return as_body(ranking, ranked, timings, services), {}


def rerank_body(ranking: Ranking, ranked: Ranked, timings: Timings, services: Services) -> RerankResponse:
    found = [
        RerankResult(index=index, relevance_score=score.relevance, document=_returned(ranking, index))
        for index, score in _in_order(ranked)
    ]
    return RerankResponse(results=found, **_about(ranking, ranked, timings, services))


def infinity_body(ranking: Ranking, ranked: Ranked, timings: Timings, services: Services) -> InfinityResponse:
    found = [
        TextResult(index=index, relevance_score=score.relevance, document=_text(ranking, index))
        for index, score in _in_order(ranked)
    ]
    return InfinityResponse(results=found, **_about(ranking, ranked, timings, services))


def _text(ranking: Ranking, index: int) -> str | None:
    return ranking.passages[index].text if ranking.gives_texts else None


def _returned(ranking: Ranking, index: int) -> ReturnedDocument | None:
    text = _text(ranking, index)
    return None if text is None else ReturnedDocument(text=text)


def _about(ranking: Ranking, ranked: Ranked, timings: Timings, services: Services) -> dict[str, Any]:
    usage = usage_body(ranked.scored.usage)
    return {
        "id": correlation_id.get() or "",
        "model": services.model,
        "degraded": list(degradation(ranked.scored)),
        "usage": usage,
        "meta": RerankMeta(
            api_version=ApiVersion(version="2" if ranking.dialect is Dialect.COHERE else "1"),
            tokens=TokensBody(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens),
            prompt=services.prompts.id,
            timings_ms=timings_ms(timings),
            pairs_unscored=sum(score is None for score in ranked.scored.scores),
        ),
    }


def text_ranks(ranking: Ranking, ranked: Ranked) -> TextRanks:
    return TextRanks(
        [
            TextRank(
                index=index,
                score=UNCALIBRATED.margin(score.relevance) if ranking.raw_scores else score.relevance,
                text=_text(ranking, index),
            )
            for index, score in _in_order(ranked)
        ]
    )


def tei_headers(ranking: Ranking, ranked: Ranked, timings: Timings) -> dict[str, str]:
    """Those of TEI's that are known here; times in milliseconds. Waiting and tokenising are part of the inference."""
    numbers: dict[str, Any] = {
        "x-compute-characters": sum(len(passage.text) for passage in ranking.passages),
        "x-compute-tokens": ranked.scored.usage.prompt_tokens,
        "x-compute-time": _ms(timings.total_s),
        "x-total-time": _ms(timings.total_s),
        "x-inference-time": _ms(timings.score_s),
    }
    return {"x-compute-type": "vllm", **{name: str(number) for name, number in numbers.items()}}


def _ms(seconds: float | None) -> int:
    return round((seconds or 0.0) * 1000)


def _in_order(ranked: Ranked) -> list[tuple[int, Score]]:
    return [(index, score) for index in ranked.order if (score := ranked.scores[index]) is not None]
