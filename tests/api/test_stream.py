"""POST /answer with `stream`: server-sent events."""

import json
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from service.app import create_app
from service.errors import DeadlineError, EngineError, EngineOverloadedError, RequestError, RetrievalError
from service.settings import Settings
from tests.fakes import FakeServices, client_of

QUESTION = "mont blanc rises"


async def stream(client: httpx.AsyncClient, **body: Any) -> list[ServerSentEvent]:
    request = {"question": QUESTION, "stream": True, **body}
    async with client.stream("POST", "/answer", json=request) as response:
        assert response.status_code == 200
        return [event async for event in EventSource(response).aiter_sse()]


def data(event: ServerSentEvent) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(event.data)
    return parsed


async def test_events_come_in_the_order_of_the_stages(client: httpx.AsyncClient) -> None:
    events = await stream(client)
    kinds = [event.event for event in events]
    assert kinds[:2] == ["search_results", "rerank"]
    assert kinds[2:] == ["answer.delta", "answer.delta", "citation", "final"]


async def test_every_event_has_a_number_and_its_type_in_the_data(client: httpx.AsyncClient) -> None:
    events = await stream(client)
    assert [event.id for event in events] == [str(number) for number in range(1, len(events) + 1)]
    assert [data(event)["type"] for event in events] == [event.event for event in events]


async def test_pieces_make_up_the_answer(client: httpx.AsyncClient) -> None:
    events = await stream(client)
    text = "".join(data(event)["text"] for event in events if event.event == "answer.delta")
    assert text == data(events[-1])["answer"] == "4,806 metres"


async def test_citations_come_once_the_answer_is_there_and_are_those_of_the_answer(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.generator.texts = (" Mont Blanc rises", " to 4,806 metres. ", "It is in Asia. The Rhine is a river [2].")
    events = await stream(client, min_relevance=0)
    citations = [data(event) for event in events if event.event == "citation"]
    final = data(events[-1])
    assert [{name: one[name] for name in one if name != "type"} for one in citations] == final["citations"]
    assert [one["text"] for one in citations] == ["Mont Blanc rises to 4,806 metres", "The Rhine is a river"]
    assert all(final["answer"][one["start"] : one["end"]] == one["text"] for one in citations)
    metrics = (await client.get("/metrics")).text
    assert 'rankrag_citations_total{result="verified"} 2.0' in metrics
    assert 'rankrag_citations_total{result="dropped"} 2.0' in metrics  # the sentence about Asia, and passage 2


async def test_stream_that_is_silent_sends_comments(fakes: FakeServices) -> None:
    fakes.scorer.delay_s = 0.2
    async with (
        client_of(create_app(Settings(keep_alive_s=0.02), fakes.open)) as client,
        client.stream("POST", "/answer", json={"question": QUESTION, "stream": True}) as response,
    ):
        lines = [line async for line in response.aiter_lines()]
    found, ranked = lines.index("event: search_results"), lines.index("event: rerank")
    assert any(line.startswith(":") for line in lines[found:ranked])
    assert "event: final" in lines


async def test_last_event_is_the_answer_as_it_would_come_without_a_stream(fakes: FakeServices) -> None:
    async with client_of(create_app(Settings(), fakes.open)) as client:
        final = data((await stream(client, cache=False))[-1])
        whole = (await client.post("/answer", json={"question": QUESTION, "cache": False})).json()
    assert final == {"type": "final", **whole}


async def test_first_events_tell_what_was_found_and_kept(client: httpx.AsyncClient) -> None:
    found, reranked = [data(event) for event in (await stream(client, top_k=1))[:2]]
    assert [passage["id"] for passage in found["passages"]] == ["rhine", "mont-blanc", "eiger"]
    assert [passage["id"] for passage in reranked["passages"]] == ["mont-blanc"]
    assert reranked["degraded"] == []


async def test_cached_answer_is_the_only_event(client: httpx.AsyncClient) -> None:
    await stream(client)
    events = await stream(client)
    assert [event.event for event in events] == ["final"]
    assert data(events[0])["cached"] is True


async def test_stream_is_not_to_be_stored_and_has_its_id(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/answer", json={"question": QUESTION, "stream": True}, headers={"X-Request-ID": "my-id"}
    )
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers.get_list("X-Request-ID") == ["my-id"]


@pytest.mark.parametrize(
    "error",
    [EngineError("gone"), EngineOverloadedError("busy"), DeadlineError("late"), RequestError("long", field="question")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("num_before", [0, 1])
async def test_error_is_the_last_event_in_the_one_shape(
    client: httpx.AsyncClient, fakes: FakeServices, error: Any, num_before: int
) -> None:
    fakes.generator.error, fakes.generator.num_before_error = error, num_before
    events = await stream(client)
    assert [event.event for event in events[:-1]] == ["search_results", "rerank", *["answer.delta"] * num_before]
    last = data(events[-1])
    assert (events[-1].event, last["type"], last["message"]) == ("error", "error", error.message)
    assert (last["error"]["code"], last["error"]["param"]) == (error.code, error.field)
    assert last["request_id"]
    assert f'code="{error.code}"}} 1.0' in (await client.get("/metrics")).text


async def test_unexpected_error_is_the_last_event_and_says_nothing_of_the_inside(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.generator.error = RuntimeError("swordfish")
    events = await stream(client)
    assert data(events[-1])["error"]["code"] == "internal_error"
    assert "swordfish" not in events[-1].data


async def test_error_of_the_first_stage_is_the_only_event(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.index.error = RetrievalError("the index is broken")
    events = await stream(client)
    assert [event.event for event in events] == ["error"]
    assert data(events[0])["error"]["code"] == "retrieval_failed"


async def test_stream_that_hangs_ends_with_a_deadline_error(fakes: FakeServices) -> None:
    fakes.encoder.delay_s = 60
    async with client_of(create_app(Settings(request_timeout_s=0.05), fakes.open)) as client:
        events = await stream(client)
    assert [data(event)["error"]["code"] for event in events] == ["deadline_exceeded"]


async def test_engine_that_is_down_keeps_its_status_before_the_stream(
    client: httpx.AsyncClient, fakes: FakeServices
) -> None:
    fakes.scorer.refusal = EngineError("vLLM can't be reached")
    response = await client.post("/answer", json={"question": QUESTION, "stream": True})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    assert response.headers["Retry-After"] == "2"


async def test_any_text_stays_one_event(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    text = "one\ntwo\r\n\r\ndata: three\u2028event: final\x85 漢字"
    fakes.generator.texts = (text,)
    deltas = [data(event)["text"] for event in await stream(client) if event.event == "answer.delta"]
    assert "".join(deltas) == text
