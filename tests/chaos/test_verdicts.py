"""What counts as an answer and as an honest error; everything else must be seen."""

import json
import random
from typing import Any

import pytest

from tests.chaos.asks import DEADLINE_S, Ask, Pool, demo_pool
from tests.chaos.verdicts import GRACE_S, TOLERANCE, Outcome, Pair, Reply, Verdict, events_of, invented, judge
from tests.integration.conftest import ROOT

QUESTION, TEXTS = "How high is Mont Blanc?", ("It is high.", "The Rhine is long.")
POOL = Pool({QUESTION: TEXTS})
RERANK, ANSWER, STREAM = (POOL.ask(kind, QUESTION) for kind in ("rerank", "answer", "stream"))
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "pairs_scored": 1, "pairs_cached": 0}


def reply(status: int | None, body: object = "", *, took_s: float = 0.1) -> Reply:
    return Reply(0.0, 0.0, took_s, status, body if isinstance(body, str) else json.dumps(body), "ConnectError")


def reranked(*rows: tuple[int, float], **changes: Any) -> dict[str, Any]:
    results = [{"index": index, "relevance_score": score} for index, score in rows]
    meta = {
        "api_version": {"version": "2"}, "tokens": {"input_tokens": 1, "output_tokens": 1}, "prompt": "p",
        "timings_ms": {}, "pairs_unscored": 0,
    }  # fmt: skip
    return {
        "id": "r", "object": "list", "model": "m", "results": results, "degraded": [], "usage": USAGE, "meta": meta,
        **changes,
    }  # fmt: skip


def passage(id_: str, score: float | None) -> dict[str, Any]:
    return {
        "id": id_, "title": "t", "text": f"text of {id_}", "retrieval_score": 0.5, "retrieval_rank": 1,
        "relevance_score": score, "label_mass": score, "rank": 1, "in_context": True, "metadata": {},
    }  # fmt: skip


def answered(*passages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "answer": "4,806 metres", "rewritten_question": None, "citations": [], "passages": passages,
        "abstained": False, "degraded": [],
        "cached": False, "model": "m", "index_version": "v1", "usage": USAGE, "timings_ms": {}, **changes,
    }  # fmt: skip


def error(code: str, **changes: Any) -> dict[str, Any]:
    detail = {"type": "T", "code": code, "message": "why", "param": None, "limit": None}
    return {"message": "why", "detail": "why", "error": detail, "id": "r", "request_id": "r", **changes}


def sse(*events: tuple[str, dict[str, Any]]) -> str:
    return ": ping\r\n\r\n" + "".join(
        f"id: 1\r\nevent: {name}\r\ndata: {json.dumps({'type': name, **data})}\r\n\r\n" for name, data in events
    )


@pytest.mark.parametrize(
    ("ask", "got", "outcome", "detail"),
    [
        (RERANK, reply(200, reranked((1, 0.9), (0, 0.1))), Outcome.OK, ""),
        (RERANK, reply(200, reranked((1, 0.9), degraded=["rerank_partial"])), Outcome.DEGRADED, "rerank_partial"),
        (ANSWER, reply(200, answered(passage("a", 0.5))), Outcome.OK, ""),
        (ANSWER, reply(200, answered(passage("a", None), degraded=["rerank_skipped"])), Outcome.DEGRADED, None),
        (ANSWER, reply(503, error("engine_unavailable")), Outcome.ERROR, "engine_unavailable"),
        (ANSWER, reply(429, error("overloaded")), Outcome.ERROR, "overloaded"),
        (STREAM, reply(200, sse(("rerank", {}), ("final", answered(passage("a", 0.5))))), Outcome.OK, ""),
        (STREAM, reply(200, sse(("rerank", {}), ("error", error("deadline_exceeded")))), Outcome.ERROR, None),
        (ANSWER, reply(None), Outcome.LOST, "ConnectError"),
    ],
)
def test_what_callers_may_get(ask: Ask, got: Reply, outcome: Outcome, detail: str | None) -> None:
    verdict = judge(ask, got)
    assert verdict.outcome is outcome
    assert detail is None or verdict.detail == detail


@pytest.mark.parametrize(
    ("ask", "got"),
    [
        (RERANK, reply(200, reranked((1, 0.9)))),  # one is missing, and nothing says so
        (RERANK, reply(200, reranked((1, 0.1), (0, 0.9)))),  # not in order
        (RERANK, reply(200, reranked((1, 0.9), (0, 1.1)))),  # no probability
        (RERANK, reply(200, "<html>")),
        (RERANK, reply(200, reranked((1, 0.9), (0, 0.1), surprise=1))),
        (ANSWER, reply(200, answered(passage("a", None)))),  # no score, and nothing says so
        (ANSWER, reply(200, answered())),
        (ANSWER, reply(200, answered(passage("a", 0.5), answer=""))),
        (ANSWER, reply(200, answered(passage("a", 0.5), citations=[
            {"start": 0, "end": 1, "text": "4", "sources": [{"id": "of another answer"}]}
        ]))),
        (ANSWER, reply(500, error("internal_error"))),
        (ANSWER, reply(503, error("overloaded"))),  # a code with another's status
        (ANSWER, reply(503, error("engine_unavailable", request_id=None))),
        (ANSWER, reply(502, "Bad Gateway")),
        (STREAM, reply(200, sse(("rerank", {})))),  # it just ends
        (STREAM, reply(200, "")),
        (STREAM, reply(200, sse(("error", error("internal_error"))))),
    ],
)  # fmt: skip
def test_what_nobody_may_get(ask: Ask, got: Reply) -> None:
    assert judge(ask, got).outcome is Outcome.BROKEN


def test_late_is_hung_whatever_it_says() -> None:
    body = reranked((1, 0.9), (0, 0.1))
    in_time, late = DEADLINE_S + GRACE_S - 0.01, DEADLINE_S + GRACE_S + 0.01
    assert judge(RERANK, reply(200, body, took_s=in_time)).outcome is Outcome.OK
    assert judge(RERANK, reply(200, body, took_s=late)).outcome is Outcome.HUNG
    assert judge(RERANK, reply(None, took_s=late)).outcome is Outcome.HUNG


def test_scores_are_by_what_they_are_of() -> None:
    assert judge(RERANK, reply(200, reranked((1, 0.9), (0, 0.1)))).scores == {
        Pair(QUESTION, "", TEXTS[1]): 0.9,
        Pair(QUESTION, "", TEXTS[0]): 0.1,
    }
    verdict = judge(ANSWER, reply(200, answered(passage("a", 0.5))))
    assert (verdict.scores, verdict.index_version) == ({Pair(QUESTION, "t", "text of a"): 0.5}, "v1")


def test_invented_scores_are_named() -> None:
    pair = Pair(QUESTION, "", TEXTS[0])
    assert invented(Verdict(Outcome.OK, scores={pair: 0.5}), {pair: 0.5 + TOLERANCE - 1e-6}) == []
    assert len(invented(Verdict(Outcome.OK, scores={pair: 0.5}), {pair: 0.5 + 2 * TOLERANCE})) == 1
    assert len(invented(Verdict(Outcome.OK, scores={pair: 0.5}), {})) == 1


def test_comments_are_no_events() -> None:
    assert list(events_of(": ping\n\nevent: a\ndata: {}\n\n")) == [("a", {})]


def test_only_line_feeds_end_a_line_of_an_event() -> None:
    text = "of two\u2028lines, and\x85more"
    body = f"event: a\r\ndata: {json.dumps({'text': text}, ensure_ascii=False)}\r\n\r\n"
    assert list(events_of(body)) == [("a", {"text": text})]


def test_the_pool_asks_the_same_with_the_same_seed() -> None:
    draws = [demo_pool(ROOT, random.Random(1)).draws(random.Random(2)) for _ in range(2)]
    first, second = ([next(one) for _ in range(200)] for one in draws)
    assert first == second
    assert {ask.kind for ask in first} == {"rerank", "rerank fresh", "answer", "answer fresh", "stream", "stream fresh"}
    assert all(ask.is_fresh == ("fresh" in ask.kind) for ask in first)
