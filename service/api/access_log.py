"""What a request's log line says beyond its route and status."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.types import Scope

from service.api.services import Services
from service.metrics import stages
from service.pipeline import degradation
from service.ports import Scores
from service.types import Answer, Degradation, Passage, RetrievedPassage, Timings, Usage

_TOLD: Final = "rankrag.told"


def tell(scope: Scope, **fields: object) -> None:
    """Add fields to the request's line. Whoever calls this answers for it that no text of the caller's is in them."""
    scope.setdefault(_TOLD, {}).update(fields)


def told(scope: Scope) -> Mapping[str, object]:
    fields: Mapping[str, object] = scope.get(_TOLD, {})
    return fields


def note_answer(scope: Scope, question: str, answer: Answer, services: Services) -> None:
    """An answer is complete: count it, and tell of it."""
    services.metrics.observe_answer(answer)
    outcome = {"abstained": answer.abstained, "cached": answer.is_cached}
    tell(scope, **_work(answer.timings, answer.degraded, answer.usage), **outcome)
    if services.settings.log.text:
        passages = (kept.passage for kept in answer.passages)
        tell(scope, question=question, answer=answer.text, passages=_texts(passages))


def note_scores(
    scope: Scope, question: str, passages: Iterable[Passage], scored: Scores, timings: Timings, services: Services
) -> None:
    """The same for a /rerank."""
    degraded = degradation(scored)
    services.metrics.observe_scores(scored.scores, degraded, scored.usage, timings)
    tell(scope, **_work(timings, degraded, scored.usage))
    if services.settings.log.text:
        tell(scope, question=question, passages=_texts(passages))


def note_search(
    scope: Scope, query: str, found: Iterable[RetrievedPassage], timings: Timings, services: Services
) -> None:  # fmt: skip
    """The same for a /search."""
    services.metrics.observe_timings(timings)
    tell(scope, timings_ms=timings_ms(timings))
    if services.settings.log.text:
        tell(scope, question=query, passages=_texts(one.passage for one in found))


def timings_ms(timings: Timings) -> dict[str, float]:
    return {name: round(seconds * 1000, 3) for name, seconds in stages(timings)}


def _work(timings: Timings, degraded: Iterable[Degradation], usage: Usage) -> dict[str, Any]:
    return {
        "timings_ms": timings_ms(timings),
        "degraded": list(degraded),
        "pairs_scored": usage.pairs_scored,
        "pairs_cached": usage.pairs_cached,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _texts(passages: Iterable[Passage]) -> list[dict[str, str]]:
    return [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in passages]
