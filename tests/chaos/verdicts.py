"""What a caller got: an answer, a declared degradation, an honest error, or something that must not be. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from service import errors
from service.api.rerank_schemas import RerankResponse
from service.api.schemas import AnswerResponse, ErrorBody
from tests.chaos.asks import DEADLINE_S, Ask

# After its deadline a request may take so long to say so.
GRACE_S = 1.0
# vLLM's batches move a score by so much.
TOLERANCE = 0.01

NOT_HONEST = frozenset({"internal_error", "retrieval_failed", "config_error", "checkpoint_error"})


class Outcome(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    ERROR = "error"
    LOST = "lost"
    HUNG = "hung"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Reply:
    """As it came over the wire; `status` is None where the connection failed. Moments on one clock, in seconds."""

    due_s: float
    sent_s: float
    done_s: float
    status: int | None
    body: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a score is of."""

    question: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`detail` is the error's code, the degradation, or what is wrong. `scores` are those that it came with."""

    outcome: Outcome
    detail: str = ""
    scores: Mapping[Pair, float] = field(default_factory=dict)
    index_version: str = ""


def judge(ask: Ask, reply: Reply) -> Verdict:
    """Whether its scores are right is not judged here: see `invented`."""
    if reply.done_s - reply.sent_s > DEADLINE_S + GRACE_S:
        return Verdict(Outcome.HUNG, f"{reply.done_s - reply.sent_s:.1f} s")
    if reply.status is None:
        return Verdict(Outcome.LOST, reply.reason)
    try:
        if reply.status != 200:
            return _error(reply.status, reply.body)
        return _stream(ask, reply.body) if ask.is_stream else _success(ask, reply.body)
    except (ValidationError, ValueError, KeyError) as exc:
        return Verdict(Outcome.BROKEN, f"{reply.status}: {exc!s}"[:300])


def _error(status: int, body: str) -> Verdict:
    """Honest: the one shape of all errors, a code of the tree with its status, and a request id to ask about."""
    code = ErrorBody.model_validate_json(body, extra="forbid")
    statuses = {kind.code: kind.status for kind in all_errors()}
    is_honest = statuses.get(code.error.code) == status and code.error.code not in NOT_HONEST
    if not is_honest or not code.request_id or not code.message:
        return Verdict(Outcome.BROKEN, f"{status} {body[:300]}")
    return Verdict(Outcome.ERROR, code.error.code)


def all_errors(kind: type[errors.RankRAGError] = errors.RankRAGError) -> Iterator[type[errors.RankRAGError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from all_errors(child)


def _success(ask: Ask, body: str) -> Verdict:
    if ask.path == "/rerank":
        return _reranked(ask, RerankResponse.model_validate_json(body, extra="forbid"))
    return _answered(ask, AnswerResponse.model_validate_json(body, extra="forbid"))


def _stream(ask: Ask, body: str) -> Verdict:
    """Ends with `final`, or with `error` as a promise kept late."""
    events = list(events_of(body))
    if not events:
        return Verdict(Outcome.BROKEN, "a stream without events")
    name, data = events[-1]
    if name == "error":
        error = ErrorBody.model_validate({key: value for key, value in data.items() if key != "type"})
        is_honest = error.error.code in {kind.code for kind in all_errors()} - NOT_HONEST
        return Verdict(Outcome.ERROR if is_honest else Outcome.BROKEN, error.error.code)
    if name != "final":
        return Verdict(Outcome.BROKEN, f"a stream that ended with {name}")
    del data["type"]
    return _answered(ask, AnswerResponse.model_validate(data, extra="forbid"))


def events_of(body: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of server-sent events. Only CR and LF end a line, not what Unicode calls one."""
    for block in body.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields:
            yield fields["event"], json.loads(fields["data"])


def _reranked(ask: Ask, response: RerankResponse) -> Verdict:
    places = [result.index for result in response.results]
    is_whole = sorted(places) == list(range(len(ask.texts)))
    values = [result.relevance_score for result in response.results]
    if not is_whole and not response.degraded:
        return Verdict(Outcome.BROKEN, f"results {places} of {len(ask.texts)} documents, and nothing is declared")
    if values != sorted(values, reverse=True):
        return Verdict(Outcome.BROKEN, f"not in order: {values}")
    scores = {
        Pair(ask.question, "", ask.texts[place]): value for place, value in zip(places, values, strict=True)
    }  # fmt: skip
    return Verdict(*_named(response.degraded), scores)


def _answered(ask: Ask, response: AnswerResponse) -> Verdict:
    """An answer has text, the passages it is from, and scores for all of them unless it says that it hasn't."""
    ids = {passage.id for passage in response.passages}
    cited = {source.id for citation in response.citations for source in citation.sources}
    scores = {
        Pair(ask.question, passage.title, passage.text): passage.relevance_score
        for passage in response.passages
        if passage.relevance_score is not None
    }
    if not response.answer or not ids or not cited <= ids:
        return Verdict(Outcome.BROKEN, f"an answer without text or passages: {response.answer!r}, {sorted(ids)}")
    if len(scores) < len(response.passages) and not response.degraded:
        return Verdict(Outcome.BROKEN, "scores are missing, and nothing is declared")
    return Verdict(*_named(response.degraded), scores, response.index_version)


def _named(degraded: Sequence[str]) -> tuple[Outcome, str]:
    return (Outcome.DEGRADED, ",".join(degraded)) if degraded else (Outcome.OK, "")


def invented(verdict: Verdict, at_rest: Mapping[Pair, float]) -> list[str]:
    """Scores that differ from those computed at rest, or that nobody can have computed."""
    return [
        f"{score:.4f} where {at_rest.get(pair, float('nan')):.4f} is right: {pair.question!r}"
        for pair, score in verdict.scores.items()
        if pair not in at_rest or abs(score - at_rest[pair]) > TOLERANCE
    ]
