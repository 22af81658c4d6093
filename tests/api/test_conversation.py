"""POST /answer with `messages`: the last one is the question, rewritten where that is asked for."""

from typing import Any

import httpx
import pytest
from httpx_sse import EventSource

from service.app import create_app
from service.errors import DeadlineError, EngineError, OverloadedError
from service.settings import LimitSettings, Settings
from service.types import Turn
from tests.fakes import FakeServices, client_of

FIRST, REPLY, FOLLOW_UP = "Which mountain is the highest?", "Mont Blanc", "How high is it?"
REWRITTEN = "How high is Mont Blanc?"
MESSAGES = [
    {"role": "user", "content": FIRST},
    {"role": "assistant", "content": REPLY},
    {"role": "user", "content": f" {FOLLOW_UP}\n"},
]


async def ask(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/answer", json={"messages": MESSAGES, **body})
    assert response.status_code == 200, response.text
    answered: dict[str, Any] = response.json()
    return answered


def asked(fakes: FakeServices) -> set[str]:
    """What reached the retriever, the scorer and the generator as the question."""
    encoded, scored = [call[0] for call in fakes.encoder.calls], [call[0] for call in fakes.scorer.calls]
    return {*encoded, *scored, *(call[0] for call in fakes.generator.calls)}


async def test_last_message_is_the_question_as_it_stands(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    body = await ask(client)
    assert asked(fakes) == {FOLLOW_UP}
    assert (body["rewritten_question"], fakes.generator.rewrites) == (None, [])


async def test_follow_up_is_rewritten_if_asked_for_and_that_is_shown(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    body = await ask(client, rewrite=True)
    assert asked(fakes) == {REWRITTEN}
    assert body["rewritten_question"] == REWRITTEN
    history = (Turn("user", FIRST), Turn("assistant", REPLY))
    assert [call[:2] for call in fakes.generator.rewrites] == [(FOLLOW_UP, history)]
    assert body["usage"]["prompt_tokens"] == 3 + 20 + 40
    assert "rewrite" in body["timings_ms"]
    assert body["degraded"] == []


async def test_rewritten_question_comes_with_the_search_results(client: httpx.AsyncClient) -> None:
    body = {"messages": MESSAGES, "rewrite": True, "stream": True}
    async with client.stream("POST", "/answer", json=body) as response:
        events = [event async for event in EventSource(response).aiter_sse()]
    assert events[0].json()["rewritten_question"] == REWRITTEN == events[-1].json()["rewritten_question"]


async def test_first_question_needs_no_rewriting(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    body = await ask(client, messages=MESSAGES[:1], rewrite=True)
    assert (fakes.generator.rewrites, body["rewritten_question"], asked(fakes)) == ([], None, {FIRST})


ERRORS = [EngineError("gone"), DeadlineError("late"), OverloadedError("full")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_failed_rewriting_asks_the_question_as_it_is_and_says_so(
    client: httpx.AsyncClient, fakes: FakeServices, error: Exception
) -> None:
    fakes.generator.rewrite_error = error
    body = await ask(client, rewrite=True)
    assert (asked(fakes), body["degraded"], body["rewritten_question"]) == ({FOLLOW_UP}, ["rewrite_failed"], None)
    assert body["answer"]
    assert 'rankrag_degraded_total{kind="rewrite_failed"} 1.0' in (await client.get("/metrics")).text
    assert not (await ask(client, rewrite=True))["cached"]


@pytest.mark.parametrize("text", ["", " \n", "Sorry. I cannot find the answer based on the context."])
async def test_rewriting_to_no_question_has_failed(client: httpx.AsyncClient, fakes: FakeServices, text: str) -> None:
    fakes.generator.rewritten = text
    body = await ask(client, rewrite=True)
    assert (asked(fakes), body["degraded"]) == ({FOLLOW_UP}, ["rewrite_failed"])
    assert body["usage"]["prompt_tokens"] == 3 + 20 + 40


async def test_rewriting_leaves_time_for_the_rest(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    await ask(client, rewrite=True, deadline_ms=8000)
    assert fakes.generator.rewrites[0][3] == fakes.clock() + 2
    assert fakes.generator.calls[0][3] == fakes.clock() + 8


async def test_cached_answer_is_that_to_the_same_conversation(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    first = await ask(client, rewrite=True)
    again = await ask(client, rewrite=True)
    assert (again["cached"], again["rewritten_question"]) == (True, first["rewritten_question"])
    other = [{"role": "user", "content": "Tell me of the Eiger."}, *MESSAGES[1:]]
    assert not (await ask(client, messages=other, rewrite=True))["cached"]
    assert not (await ask(client, messages=other))["cached"]
    assert (await ask(client))["cached"]  # as it stands, the question is the same in any conversation
    assert len(fakes.generator.rewrites) == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "question"),
    ({"question": "q", "messages": MESSAGES}, "question"),
    ({"question": "q", "rewrite": True}, "rewrite"),
    ({"messages": []}, "messages"),
    ({"messages": MESSAGES[:2]}, "messages.1"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": "q" * 31}]}, "messages.0.content"),
    ({"messages": [{"role": "system", "content": "q"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "a" * 90}, *MESSAGES]}, "messages"),
    ({"messages": [{"role": "user", "content": "q", "name": "x"}]}, "messages.0.name"),
]


@pytest.mark.parametrize(("body", "field"), WRONG, ids=lambda value: str(value)[:40])
async def test_what_is_wrong_is_named(fakes: FakeServices, body: dict[str, Any], field: str) -> None:
    limits = LimitSettings(max_question_chars=30, max_messages_chars=100)
    async with client_of(create_app(Settings(limits=limits), fakes.open)) as client:
        response = await client.post("/answer", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (422, field), response.text
    assert (fakes.encoder.calls, fakes.generator.rewrites) == ([], [])
