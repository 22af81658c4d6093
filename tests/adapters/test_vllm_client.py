"""The wire to vLLM: what is sent, what comes back, and what every failure becomes."""

import asyncio
import json
import socket
import struct
import time
from array import array
from asyncio import create_task
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any

import httpx
import pytest
import uvloop

from service.adapters.tokenizer import Labels
from service.adapters.vllm_client import LabelLogprobs, ServedModel, VllmClient, open_http
from service.errors import DeadlineError, EngineError, EngineOverloadedError, EngineRefusedError, RankRAGError
from service.ports import Piece
from service.settings import VllmSettings
from service.types import Usage
from tests.fake_vllm import sse, until
from tests.listening import HOST, listening

LABELS = Labels(true=7, false=8)
PROMPTS = [[1, 2, 3], [4, 5]]
Handler = Callable[[httpx.Request], httpx.Response]


@asynccontextmanager
async def client_of(handler: Handler, **options: Any) -> AsyncIterator[VllmClient]:
    transport = httpx.MockTransport(handler)
    async with httpx.AsyncClient(transport=transport, base_url="http://vllm", **options) as http:
        yield VllmClient(http)


async def score(handler: Handler) -> tuple[list[LabelLogprobs], int]:
    async with client_of(handler) as client:
        return await client.label_logprobs("model", PROMPTS, LABELS, timeout_s=1)


async def complete(handler: Handler) -> list[Piece]:
    async with client_of(handler) as client:
        pieces = client.stream_completion("model", [1, 2], max_tokens=3, stop=["\n"], timeout_s=1)
        return [piece async for piece in pieces]


def choice(index: int, logprobs: dict[str, float]) -> dict[str, Any]:
    return {"index": index, "text": "", "finish_reason": "length", "logprobs": {"top_logprobs": [logprobs]}}


def scores_body(*choices: Any) -> dict[str, Any]:
    return {"choices": list(choices), "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


GOOD = scores_body(
    choice(1, {"token_id:7": -3.0, "token_id:8": -0.1}), choice(0, {"token_id:7": -0.2, "token_id:8": -2.0})
)


@contextmanager
def resetting_port() -> Iterator[int]:
    """A port that takes connections and resets each a moment later."""

    def reset_all() -> None:
        with suppress(OSError):  # closed at the end
            while True:
                connection, _ = listener.accept()
                time.sleep(0.002)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=reset_all)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


async def keep_busy() -> None:
    """The loop sees an open connection and its reset at the same time, as it does under load."""
    while True:
        time.sleep(0.003)  # noqa: ASYNC251
        await asyncio.sleep(0)


def test_connection_that_is_reset_as_it_opens_is_an_engine_error() -> None:
    """On uvloop, in which the client may run elsewhere: there anyio stumbles over the socket that is gone."""

    async def ask(port: int) -> list[type[EngineError]]:
        client, busy = VllmClient(open_http(VllmSettings(), f"http://127.0.0.1:{port}")), create_task(keep_busy())
        failures = []
        for _ in range(20):
            try:
                await client.served_model(timeout_s=1)
            except EngineError as exc:
                failures.append(type(exc))
        busy.cancel()
        await client.aclose()
        return failures

    with resetting_port() as port:
        assert uvloop.run(ask(port)) == [EngineError] * 20


USAGE_CHUNK = {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 2}}


def answering(body: Any, status: int = 200) -> Handler:
    return lambda _: httpx.Response(status, json=body)


def streaming(text: str, content_type: str = "text/event-stream") -> Handler:
    return lambda _: httpx.Response(200, text=text, headers={"Content-Type": content_type})


# What is sent


async def test_scoring_is_one_completion_call_for_all_prompts_with_both_label_ids() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json=GOOD)

    await score(answer)
    assert [(request.method, request.url.path) for request in sent] == [("POST", "/v1/completions")]
    assert json.loads(sent[0].content) == {
        "model": "model",
        "prompt": PROMPTS,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 0,
        "logprob_token_ids": [7, 8],
        "return_tokens_as_token_ids": True,
    }


async def test_answer_is_asked_for_as_a_stream_with_usage_at_temperature_0() -> None:
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return streaming(sse(USAGE_CHUNK, "[DONE]"))(request)

    await complete(answer)
    assert sent == [
        {
            "model": "model",
            "prompt": [1, 2],
            "max_tokens": 3,
            "temperature": 0,
            "stop": ["\n"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


async def test_tokenize_asks_for_special_tokens_and_returns_the_ids() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content) == {"model": "model", "prompt": "text", "add_special_tokens": True}
        return httpx.Response(200, json={"tokens": [1, 2, 3], "count": 3})

    async with client_of(answer) as client:
        assert await client.tokenize("model", "text", timeout_s=1) == [1, 2, 3]


async def test_served_model_is_the_first_one_listed() -> None:
    body = {"data": [{"id": "mine", "max_model_len": 4096}, {"id": "adapter", "max_model_len": 1}]}
    async with client_of(answering(body)) as client:
        assert await client.served_model(timeout_s=1) == ServedModel("mine", 4096)


async def test_call_may_take_its_time_but_connecting_only_the_connect_timeout() -> None:
    timeouts: list[dict[str, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"])
        return httpx.Response(200, json=GOOD)

    async with client_of(answer, timeout=httpx.Timeout(None, connect=1.5)) as client:
        await client.label_logprobs("model", PROMPTS, LABELS, timeout_s=6)
        await client.label_logprobs("model", PROMPTS, LABELS, timeout_s=0.5)
    assert [(t["connect"], t["read"], t["pool"]) for t in timeouts] == [(1.5, 6, 6), (0.5, 0.5, 0.5)]


async def test_pool_has_the_settings_url_and_key() -> None:
    settings = VllmSettings.model_validate({"api_key": "secret"})
    async with open_http(settings, "http://vllm:9000/base") as http:
        assert str(http.base_url) == "http://vllm:9000/base/"
        assert http.headers["Authorization"] == "Bearer secret"
        assert (http.timeout.connect, http.timeout.read) == (settings.connect_timeout_s, None)


async def test_pool_without_a_key_sends_none() -> None:
    async with open_http(VllmSettings(), "http://vllm:9000") as http:
        assert "Authorization" not in http.headers


async def test_bodies_are_json_by_their_header() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Content-Type"] == "application/json"
        return httpx.Response(200, json=GOOD) if "stream" not in json.loads(request.content) else stream(request)

    stream = streaming(sse(USAGE_CHUNK, "[DONE]"))
    await score(answer)
    await complete(answer)


@pytest.mark.parametrize("prompts", [[(1, 2, 3), (4, 5)], [array("i", [1, 2, 3]), array("i", [4, 5])]])
async def test_token_ids_may_be_in_any_sequence(prompts: list[Sequence[int]]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["prompt"] == PROMPTS
        return httpx.Response(200, json=GOOD)

    async with client_of(answer) as client:
        await client.label_logprobs("model", prompts, LABELS, timeout_s=1)


@pytest.mark.parametrize("priority", [-1, 0, 2**40])
async def test_priority_is_sent_where_one_is_given(priority: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert body["priority"] == priority
        return stream(request) if "stream" in body else httpx.Response(200, json=GOOD)

    stream = streaming(sse(USAGE_CHUNK, "[DONE]"))
    async with client_of(answer) as client:
        await client.label_logprobs("model", PROMPTS, LABELS, timeout_s=1, priority=priority)
        pieces = client.stream_completion("model", [1], max_tokens=3, stop=[], timeout_s=1, priority=priority)
        assert [piece async for piece in pieces] == [Piece("", Usage(2, 2))]


# Connections


@dataclass
class Peer:
    """A server that reads and never answers; it sees when a connection is closed."""

    num_open: int = 0
    num_requests: int = 0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[VllmClient]:
        async with (
            listening(self._serve) as port,
            aclosing(VllmClient(open_http(VllmSettings(), f"http://{HOST}:{port}"))) as client,
        ):
            yield client

    async def _serve(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        self.num_open += 1
        try:
            while data := await reader.read(65536):
                self.num_requests += data.count(b"POST /v1/completions")
        finally:
            self.num_open -= 1


async def score_at(client: VllmClient) -> None:
    await client.label_logprobs("model", PROMPTS, LABELS, timeout_s=60)


async def complete_at(client: VllmClient) -> None:
    async for _ in client.stream_completion("model", [1], max_tokens=3, stop=[], timeout_s=60):
        pass


@pytest.mark.parametrize("call", [score_at, complete_at])
async def test_cancelled_call_closes_its_connection_so_that_vllm_aborts_it(
    call: Callable[[VllmClient], Coroutine[Any, Any, None]],
) -> None:
    peer = Peer()
    async with peer.client() as client:
        cancelled, other = (asyncio.create_task(call(client)) for _ in range(2))
        await until(lambda: peer.num_requests == 2)
        assert peer.num_open == 2
        cancelled.cancel()
        await until(lambda: peer.num_open == 1)
        assert not other.done()
        other.cancel()
        await until(lambda: peer.num_open == 0)


@pytest.mark.parametrize("call", [score_at, complete_at])
async def test_call_under_way_when_the_pool_is_closed_is_an_engine_error(
    call: Callable[[VllmClient], Coroutine[Any, Any, None]],
) -> None:
    peer = Peer()
    async with peer.client() as client:
        running = asyncio.create_task(call(client))
        await until(lambda: peer.num_requests)
        await client.aclose()
        with pytest.raises(EngineError, match="can't be reached"):
            await asyncio.wait_for(running, 5)
        with pytest.raises(EngineError, match="no longer in use"):
            await call(client)


async def test_pool_may_wait_for_the_calls_under_way_before_it_closes() -> None:
    is_released = asyncio.Event()

    async def answer(_: httpx.Request) -> httpx.Response:
        await is_released.wait()
        return httpx.Response(200, json=GOOD)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://vllm") as http:
        client = VllmClient(http)
        calls = [asyncio.create_task(score_at(client)) for _ in range(2)]
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(client.aclose(wait=True))
        await asyncio.sleep(0.01)
        assert not http.is_closed
        is_released.set()
        await asyncio.wait_for(closing, 5)
        assert http.is_closed
        await asyncio.gather(*calls)


# What comes back


async def test_logprobs_come_in_the_order_of_the_prompts_whatever_the_order_of_the_choices() -> None:
    assert await score(answering(GOOD)) == ([LabelLogprobs(-0.2, -2.0), LabelLogprobs(-3.0, -0.1)], 5)


async def test_stream_gives_the_pieces_and_the_usage_last() -> None:
    chunks = [{"choices": [{"text": text, "finish_reason": None}]} for text in (" 4,806", " mètres")]
    pieces = await complete(streaming(": ping\n\n" + sse(*chunks, USAGE_CHUNK, "[DONE]")))
    assert pieces == [Piece(" 4,806"), Piece(" mètres"), Piece("", Usage(2, 2))]


# What every failure becomes


def all_subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(all_subclasses(child) for child in kind.__subclasses__()))


EXCEPTIONS = {kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, Exception)}
# Wrong use of the library, or raised by `raise_for_status`, which is not called: none is an answer of vLLM.
MISUSE = {httpx.HTTPStatusError, httpx.CookieConflict, httpx.InvalidURL} | all_subclasses(httpx.StreamError)
OUT_OF_TIME = all_subclasses(httpx.TimeoutException) - {httpx.ConnectTimeout}
FAILURES = sorted(EXCEPTIONS - MISUSE - {httpx.HTTPError}, key=lambda kind: kind.__name__)


def test_every_exception_of_httpx_is_accounted_for() -> None:
    assert set(FAILURES) == all_subclasses(httpx.RequestError) & EXCEPTIONS
    assert set(FAILURES) > OUT_OF_TIME


@pytest.mark.parametrize("call", [score, complete], ids=["score", "complete"])
@pytest.mark.parametrize("kind", FAILURES, ids=lambda kind: str(kind.__name__))
async def test_httpx_error_becomes_the_services(kind: type[Exception], call: Callable[[Handler], Any]) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise kind("no luck")

    with pytest.raises(RankRAGError) as caught:
        await call(fail)
    assert type(caught.value) is (DeadlineError if kind in OUT_OF_TIME else EngineError)
    assert isinstance(caught.value.__cause__, kind)


@pytest.mark.parametrize("call", [score, complete], ids=["score", "complete"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, EngineRefusedError),
        (400, EngineRefusedError),
        (401, EngineRefusedError),
        (404, EngineRefusedError),
        (422, EngineRefusedError),
        (429, EngineOverloadedError),
        (500, EngineError),
        (502, EngineError),
        (503, EngineOverloadedError),
        (504, EngineError),
    ],
)
async def test_status_becomes_the_services_error_with_vllms_words(
    status: int, kind: type[EngineError], call: Callable[[Handler], Any]
) -> None:
    with pytest.raises(EngineError, match=f"{status}: what vLLM says") as caught:
        await call(answering({"error": {"message": "what vLLM says", "code": status}}, status))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"error": "Unauthorized"}', "Unauthorized"),
        ('{"message": "too long"}', "too long"),
        ('{"detail": "nope"}', "nope"),
        ("plain words", "plain words"),
        ("[1, 2]", "1, 2"),
        ("null", "None"),
        ("<html>" + "x" * 5000, "<html>xxx"),
    ],
)
async def test_refusal_of_any_shape_is_told_in_short(text: str, shown: str) -> None:
    with pytest.raises(EngineRefusedError, match=shown) as caught:
        await score(lambda _: httpx.Response(400, text=text))
    assert len(caught.value.message) < 400


MALFORMED: list[Any] = [
    None,
    [],
    "text",
    {},
    {"choices": None},
    {"choices": []},
    scores_body({"index": 0}),
    scores_body({"index": 0, "logprobs": None}),
    scores_body({"index": 0, "logprobs": {"top_logprobs": []}}),
    scores_body({"index": 0, "logprobs": {"top_logprobs": [None]}}),
    scores_body(choice(0, {"token_id:7": -1.0, "token_id:8": -1.0})),
    scores_body(*(choice(0, {"token_id:7": -1.0, "token_id:8": -1.0}) for _ in range(2))),
    scores_body(*(choice(index, {"token_id:7": -1.0, "token_id:8": -1.0}) for index in range(3))),
    scores_body(*(choice(index, {"token_id:7": -1.0, "token_id:8": "low"}) for index in range(2))),  # type: ignore[dict-item]
    scores_body(*(choice(index, {"token_id:7": -1.0, "token_id:8": "-1.0"}) for index in range(2))),  # type: ignore[dict-item]
    scores_body(*(choice(index, {"token_id:7": -1.0, "token_id:8": None}) for index in range(2))),  # type: ignore[dict-item]
    scores_body(*(choice(index, {"token_id:7": -1.0, "token_id:8": -(10**400)}) for index in range(2))),
    {"choices": GOOD["choices"]},
    {"choices": GOOD["choices"], "usage": None},
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: json.dumps(body)[:60])
async def test_malformed_scores_are_an_engine_error(body: Any) -> None:
    with pytest.raises(EngineError):
        await score(answering(body))


@pytest.mark.parametrize("logprobs", [{"token_id:7": -1.0}, {"token_id:8": -1.0}, {"True": -1.0, "False": -2.0}, {}])
async def test_missing_label_is_an_engine_error_and_never_a_probability(logprobs: dict[str, float]) -> None:
    with pytest.raises(EngineError, match="logprob_token_ids"):
        await score(answering(scores_body(choice(0, logprobs), choice(1, logprobs))))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "-1e999"])
async def test_logprob_that_is_no_finite_number_is_an_engine_error_and_never_a_probability(number: str) -> None:
    text = json.dumps(GOOD).replace("-3.0", number)
    assert number in text
    with pytest.raises(EngineError):
        await score(lambda _: httpx.Response(200, text=text))


@pytest.mark.parametrize("text", ["", "no JSON", "\xff"])
async def test_answer_that_is_not_json_is_an_engine_error(text: str) -> None:
    with pytest.raises(EngineError, match="/v1/completions"):
        await score(lambda _: httpx.Response(200, content=text.encode("latin-1")))


@pytest.mark.parametrize(
    "body", [{}, {"data": []}, {"data": [{"id": "m"}]}, {"data": [{"id": "m", "max_model_len": None}]}]
)
async def test_malformed_model_list_is_an_engine_error(body: Any) -> None:
    async with client_of(answering(body)) as client:
        with pytest.raises(EngineError, match="/v1/models"):
            await client.served_model(timeout_s=1)


@pytest.mark.parametrize("body", [{}, {"tokens": None}, {"tokens": ["a"]}])
async def test_malformed_tokens_are_an_engine_error(body: Any) -> None:
    async with client_of(answering(body)) as client:
        with pytest.raises(EngineError, match="/tokenize"):
            await client.tokenize("model", "text", timeout_s=1)


async def test_aborted_scoring_is_an_engine_error_whatever_it_says() -> None:
    aborted = {**choice(1, {"token_id:7": 0.0, "token_id:8": 0.0}), "finish_reason": "abort"}
    with pytest.raises(EngineError, match="aborted"):
        await score(answering(scores_body(choice(0, {"token_id:7": -1.0, "token_id:8": -1.0}), aborted)))


async def test_aborted_answer_is_an_engine_error() -> None:
    chunks = [{"choices": [{"text": "4"}]}, {"choices": [{"text": "", "finish_reason": "abort"}]}, USAGE_CHUNK]
    with pytest.raises(EngineError, match="aborted"):
        await complete(streaming(sse(*chunks, "[DONE]")))


async def test_error_inside_the_stream_is_an_engine_error_after_the_pieces_before_it() -> None:
    chunks = [{"choices": [{"text": "4"}]}, {"error": {"message": "out of memory", "code": 500}}, "[DONE]"]
    seen: list[Piece] = []
    async with client_of(streaming(sse(*chunks))) as client:
        with pytest.raises(EngineError, match="out of memory"):
            async for piece in client.stream_completion("m", [1], max_tokens=3, stop=[], timeout_s=1):
                seen += [piece]
    assert seen == [Piece("4")]


@pytest.mark.parametrize("text", [sse({"choices": [{"text": "4"}]}), sse({"choices": [{"text": "4"}]}, "[DONE]"), ""])
async def test_stream_that_ends_early_is_an_engine_error(text: str) -> None:
    with pytest.raises(EngineError, match="before it was complete"):
        await complete(streaming(text))


async def test_connection_that_breaks_in_the_stream_is_an_engine_error() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield sse({"choices": [{"text": "4"}]}).encode()
        raise httpx.RemoteProtocolError("peer closed connection")

    headers = {"Content-Type": "text/event-stream"}
    with pytest.raises(EngineError, match="peer closed connection"):
        await complete(lambda _: httpx.Response(200, content=broken(), headers=headers))


async def test_stream_that_stalls_is_a_deadline_error() -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield sse({"choices": [{"text": "4"}]}).encode()
        raise httpx.ReadTimeout("nothing came")

    headers = {"Content-Type": "text/event-stream"}
    with pytest.raises(DeadlineError):
        await complete(lambda _: httpx.Response(200, content=stalling(), headers=headers))


@pytest.mark.parametrize("event", ["{", "null", "[]", "5", '{"choices": [{}]}', '{"choices": [{"text": 5}]}', "{}"])
async def test_malformed_event_is_an_engine_error(event: str) -> None:
    with pytest.raises(EngineError, match="stream"):
        await complete(streaming(sse(event, "[DONE]")))


async def test_answer_that_is_no_stream_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="text/event-stream"):
        await complete(answering({"choices": [{"text": "4"}]}))
