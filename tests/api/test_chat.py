"""POST /v1/chat/completions."""

import json
from typing import Any

import httpx
import pytest

from service.api.chat_render import url_of
from service.app import create_app
from service.errors import EngineError, OverloadedError
from service.settings import LimitSettings, Settings
from service.types import NO_FILTER, Passage, Turn
from tests.fakes import FakeServices, client_of
from tests.filtering import where

PATH = "/v1/chat/completions"
QUESTION = "mont blanc rises"
MESSAGES = [{"role": "user", "content": QUESTION}]
CITATION = {"start": 0, "end": 12, "text": "4,806 metres", "sources": [{"id": "mont-blanc"}]}
ANNOTATION = {
    "type": "url_citation",
    "url_citation": {
        "start_index": 0, "end_index": 12, "title": "Mont Blanc", "url": "urn:rankrag:passage:mont-blanc",
    },
}  # fmt: skip


async def complete(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(PATH, json={"model": "any", "messages": MESSAGES, **body})
    assert response.status_code == 200, response.text
    completion: dict[str, Any] = response.json()
    return completion


async def chunks(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    """All but the end, which is checked."""
    request = {"messages": MESSAGES, "stream": True, **body}
    async with client.stream("POST", PATH, json=request) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_completion_is_the_answer_with_its_sources(client: httpx.AsyncClient) -> None:
    body = await complete(client)
    assert (body["object"], body["model"]) == ("chat.completion", "models/fake")
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"] == {
        "role": "assistant", "content": "4,806 metres", "refusal": None, "annotations": [ANNOTATION],
    }  # fmt: skip
    assert body["usage"] == {"prompt_tokens": 43, "completion_tokens": 2, "total_tokens": 45}
    assert body["citations"] == [CITATION] == body["rag"]["citations"]
    assert [passage["id"] for passage in body["rag"]["passages"]] == ["mont-blanc", "eiger", "rhine"]


async def test_stream_is_the_same_in_chunks(client: httpx.AsyncClient) -> None:
    sent = await chunks(client)
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in sent} == {
        (sent[0]["id"], "chat.completion.chunk", "models/fake")
    }
    deltas = [chunk["choices"][0]["delta"] for chunk in sent]
    assert deltas == [
        {"role": "assistant", "content": ""}, {"content": "4,806"}, {"content": " metres"},
        {"annotations": [ANNOTATION]},
    ]  # fmt: skip
    assert [chunk["choices"][0]["finish_reason"] for chunk in sent] == [None, None, None, "stop"]
    assert sent[-1]["citations"] == [CITATION]
    assert "usage" not in sent[-1]


async def test_usage_comes_last_and_only_if_asked_for(client: httpx.AsyncClient) -> None:
    *others, last = await chunks(client, stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 45)
    assert [chunk["usage"] for chunk in others] == [None] * len(others)


@pytest.mark.parametrize("is_cached", [True, False])
async def test_answer_that_was_not_generated_is_in_the_stream_too(
    client: httpx.AsyncClient, fakes: FakeServices, is_cached: bool
) -> None:
    if is_cached:
        await complete(client)
    else:
        fakes.index.stored = ()
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in await chunks(client))
    assert text == ("4,806 metres" if is_cached else "Sorry. I cannot find the answer based on the context.")


@pytest.mark.parametrize("stream", [True, False])
async def test_answer_that_the_limit_ended_says_so(
    client: httpx.AsyncClient, fakes: FakeServices, stream: bool
) -> None:
    fakes.generator.is_unfinished = True
    last = (await chunks(client))[-1] if stream else await complete(client)
    assert last["choices"][0]["finish_reason"] == "length"


async def test_last_message_is_the_question_and_system_messages_are_not_said(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    messages = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": [{"type": "text", "text": "Which mountain"}, {"type": "text", "text": "is it?"}]},
        {"role": "assistant", "content": None, "refusal": None},
        {"role": "user", "content": f" {QUESTION}", "name": "ann"},
    ]
    body = await complete(client, messages=messages, rag={"rewrite": True})
    assert fakes.generator.rewrites[0][:2] == (
        QUESTION,
        (Turn("user", "Which mountain\nis it?"), Turn("assistant", "")),
    )
    assert body["rag"]["rewritten_question"] == "How high is Mont Blanc?"


async def test_rag_has_the_options_of_answers(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    rag = {"top_n": 2, "top_k": 1, "filters": {"kind": "mountain"}, "min_relevance": 0, "context_order": "reverse"}
    await complete(client, rag=rag, max_tokens=9, max_completion_tokens=7)
    assert fakes.index.calls == [(2, where({"kind": "mountain"}))]
    assert fakes.generator.calls[0][2] == 7


async def test_what_clients_send_by_habit_changes_nothing(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    habits = {
        "temperature": 0.7, "top_p": 1, "top_k": 40, "seed": 3, "user": "ann", "n": 1, "tools": [], "stop": None,
        "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False, "response_format": {"type": "text"},
        "metadata": {}, "store": False, "stream_options": None, "tool_choice": "auto", "unheard_of": 1,
    }  # fmt: skip
    assert (await complete(client, **habits))["choices"][0]["message"]["content"] == "4,806 metres"
    assert fakes.index.calls == [(Settings().top_n, NO_FILTER)]


REFUSED: list[tuple[str, Any]] = [
    ("n", 2), ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("functions", [{}]), ("stop", ["."]),
    ("logprobs", True), ("logit_bias", {"1": 5}), ("response_format", {"type": "json_object"}),
    ("modalities", ["text", "audio"]), ("audio", {"voice": "a"}), ("web_search_options", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED)
async def test_what_would_change_an_answer_elsewhere_is_refused_by_name(
    client: httpx.AsyncClient, fakes: FakeServices, name: str, value: Any
) -> None:
    response = await client.post(PATH, json={"messages": MESSAGES, name: value})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (422, name, "invalid_request")
    assert "leave it out" in error["message"]
    assert fakes.encoder.calls == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": "q"}]}, "messages.0"),
    ({"messages": [{"role": "tool", "content": "q"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.type"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
    ({"messages": MESSAGES, "max_tokens": 6}, "max_tokens"),
    ({"messages": MESSAGES, "max_completion_tokens": 6}, "max_completion_tokens"),
    ({"messages": MESSAGES, "rag": {"top_n": 8}}, "rag.top_n"),
    ({"messages": MESSAGES, "rag": {"top_k": 5}}, "rag.top_k"),
    ({"messages": MESSAGES, "rag": {"filters": {"a": 1, "b": 1, "c": 1}}}, "rag.filters"),
    ({"messages": MESSAGES, "rag": {"passages": []}}, "rag.passages"),
]


@pytest.mark.parametrize(("body", "field"), WRONG, ids=lambda value: str(value)[:50])
async def test_what_is_wrong_is_named(fakes: FakeServices, body: dict[str, Any], field: str) -> None:
    limits = LimitSettings(max_answer_tokens=5, max_top_n=7, max_top_k=4, max_filters=2)
    async with client_of(create_app(Settings(limits=limits), fakes.open)) as client:
        response = await client.post(PATH, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (422, field), response.text


@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_not_admitted_keeps_its_status(
    client: httpx.AsyncClient, fakes: FakeServices, stream: bool
) -> None:
    fakes.scorer.refusal = OverloadedError("full", retry_after_s=3)
    response = await client.post(PATH, json={"messages": MESSAGES, "stream": stream})
    assert (response.status_code, response.headers["Retry-After"]) == (429, "3")
    assert response.json()["error"]["code"] == "overloaded"


async def test_error_of_a_stream_is_its_last_event(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.generator.error, fakes.generator.num_before_error = EngineError("gone"), 1
    response = await client.post(PATH, json={"messages": MESSAGES, "stream": True})
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    assert (events[-1]["error"]["message"], events[-1]["error"]["code"]) == ("gone", "engine_unavailable")
    assert "[DONE]" not in response.text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/a?b=c", "https://example.org/a?b=c"),
        ("javascript:alert(1)", "urn:rankrag:passage:a%2Fb%20%22c"),
        (3, "urn:rankrag:passage:a%2Fb%20%22c"),
        (None, "urn:rankrag:passage:a%2Fb%20%22c"),
    ],
)
def test_source_is_an_address_on_the_web_or_a_name(url: Any, expected: str) -> None:
    assert url_of(Passage('a/b "c', "text", "", {"url": url})) == expected
