"""The wire to vLLM: token ids out, log-probabilities and text back, every failure translated here."""

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
from httpx_sse import SSEError, aconnect_sse
from pydantic_core import from_json, to_json

from service.adapters.tokenizer import Labels
from service.errors import DeadlineError, EngineError, EngineOverloadedError, EngineRefusedError
from service.ports import NO_TRACER, Piece, Tracer
from service.settings import VllmSettings
from service.types import Usage

_JSON_HEADERS: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What vLLM says it serves; `max_model_len` counts prompt and answer tokens together."""

    id: str
    max_model_len: int


@dataclass(frozen=True, slots=True)
class LabelLogprobs:
    """Log-probabilities of both labels as the next token, over the whole vocabulary."""

    true: float
    false: float


def open_http(settings: VllmSettings, url: str) -> httpx.AsyncClient:
    """The connection pool to the vLLM at `url`. Deadlines are set per request, so there is no read timeout here."""
    headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
    limits = httpx.Limits(
        max_connections=settings.max_connections + 2,  # two for the monitor, whatever the load
        max_keepalive_connections=settings.max_connections,
        keepalive_expiry=settings.keepalive_s,
    )
    is_secure = url.startswith("https:")  # reading the certificates takes 20 ms, in which the event loop stands still
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=httpx.Timeout(None, connect=settings.connect_timeout_s),
        transport=_Transport(limits=limits, retries=1, verify=is_secure),
    )


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's own, which lets an AttributeError out where a peer resets a connection as soon as it is open: on uvloop
    its socket is gone before anyio asks for its name.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as exc:
            raise httpx.ConnectError("the connection was reset as it was opened", request=request) from exc


class VllmClient:
    """One vLLM server, over the pool that it is given and closes.

    `timeout_s` is the time that a call may take from now. Cancelling a call closes its connection, by which vLLM
    knows to abort it. A `priority` is sent only where one is given: lower is more urgent. vLLM goes on with the
    caller's trace.
    """

    def __init__(self, http: httpx.AsyncClient, tracer: Tracer = NO_TRACER) -> None:
        self._http = http
        self._tracer = tracer
        self._num_calls = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def url(self) -> str:
        return str(self._http.base_url).rstrip("/")

    async def aclose(self, *, wait: bool = False) -> None:
        """Close every connection, at once or with `wait` when the calls under way are done; later calls fail."""
        try:
            if wait:
                await self._is_idle.wait()
        finally:
            await self._http.aclose()

    async def served_model(self, *, timeout_s: float) -> ServedModel:
        body = await self._call("GET", "/v1/models", None, timeout_s)
        with _well_formed("/v1/models"):
            return ServedModel(str(body["data"][0]["id"]), int(body["data"][0]["max_model_len"]))

    async def tokenize(self, model: str, text: str, *, timeout_s: float) -> list[int]:
        """The ids that vLLM's tokenizer gives `text`, special tokens such as BOS added."""
        request = {"model": model, "prompt": text, "add_special_tokens": True}
        body = await self._call("POST", "/tokenize", request, timeout_s)
        with _well_formed("/tokenize"):
            return [int(token) for token in body["tokens"]]

    async def label_logprobs(
        self, model: str, prompts: Sequence[Sequence[int]], labels: Labels, *, timeout_s: float,
        priority: int | None = None,
    ) -> tuple[list[LabelLogprobs], int]:  # fmt: skip
        """Both labels' log-probabilities after each prompt, in order, and the number of prompt tokens.

        One call for all prompts. `logprob_token_ids` returns exactly the labels however improbable they are.
        """
        request = {
            "model": model,
            "prompt": prompts,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,
            "logprob_token_ids": [labels.true, labels.false],
            "return_tokens_as_token_ids": True,
            **_priority(priority),
        }
        body = await self._call("POST", "/v1/completions", request, timeout_s)
        with _well_formed("/v1/completions"):
            choices = sorted(body["choices"], key=lambda choice: int(choice["index"]))
            keys = f"token_id:{labels.true}", f"token_id:{labels.false}"
            found = [_label_logprobs(choice, *keys) for choice in choices]
            num_tokens = int(body["usage"]["prompt_tokens"])
        if [int(choice["index"]) for choice in choices] != list(range(len(prompts))):
            raise EngineError(f"vLLM gave {len(found)} answers to {len(prompts)} prompts, not one to each")
        return found, num_tokens

    async def stream_completion(
        self, model: str, prompt: Sequence[int], *, max_tokens: int, stop: Sequence[str], timeout_s: float,
        priority: int | None = None,
    ) -> AsyncGenerator[Piece, None]:  # fmt: skip
        """The completion at temperature 0, piece by piece; closing the iterator aborts it on the server."""
        request = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stop": stop,
            "stream": True,
            "stream_options": {"include_usage": True},
            **_priority(priority),
        }
        with self._under_way():
            sent: dict[str, Any] = {"timeout": self._timeout(timeout_s), "content": _json(request)}
            headers = {**_JSON_HEADERS, **self._tracer.headers()}
            async with aconnect_sse(self._http, "POST", "/v1/completions", headers=headers, **sent) as source:
                await _raise_for_status(source.response)
                is_complete = False  # the usage comes last; an aborted answer ends without one
                async for event in source.aiter_sse():
                    if event.data != "[DONE]":
                        piece = _piece(event.data)
                        is_complete = is_complete or piece.usage is not None
                        yield piece
        if not is_complete:
            raise EngineError("vLLM ended the answer before it was complete")

    async def _call(self, method: str, path: str, body: Any, timeout_s: float) -> Any:
        content = None if body is None else _json(body)
        headers = {**({} if body is None else _JSON_HEADERS), **self._tracer.headers()}
        with self._under_way():
            response = await self._http.request(
                method, path, content=content, headers=headers, timeout=self._timeout(timeout_s)
            )
            await _raise_for_status(response)
        with _well_formed(path):
            return from_json(response.content)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """Around every call: it counts for `aclose`, and its failures are translated."""
        if self._http.is_closed:
            raise EngineError("this vLLM is gone: its address is no longer in use")
        self._num_calls += 1
        self._is_idle.clear()
        try:
            with _translated():
                yield
        finally:
            self._num_calls -= 1
            if self._num_calls == 0:
                self._is_idle.set()

    def _timeout(self, timeout_s: float) -> httpx.Timeout:
        """Connecting may not use up the whole time: a dead host should be told apart from a slow one early."""
        return httpx.Timeout(timeout_s, connect=min(timeout_s, self._http.timeout.connect or timeout_s))


def _json(body: Any) -> bytes:
    """Four times as fast as httpx's own `json=`, which counts at thousands of prompts."""
    return to_json(body, fallback=list)


def _priority(priority: int | None) -> dict[str, int]:
    """Without `--scheduling-policy priority` vLLM documents any priority but 0 as an error: then none is sent."""
    return {} if priority is None else {"priority": priority}


def _label_logprobs(choice: Any, key_true: str, key_false: str) -> LabelLogprobs:
    """Raises EngineError where a label is absent: a missing probability is not a probability of 0."""
    if choice["finish_reason"] == "abort":  # what vLLM answers, with status 200, while it shuts down
        raise EngineError("vLLM aborted the scoring")
    found = choice["logprobs"]["top_logprobs"][0]
    try:
        true, false = found[key_true], found[key_false]
    except KeyError as exc:
        raise EngineError("vLLM left out a label's log-probability; it must know `logprob_token_ids`") from exc
    if not (math.isfinite(true) and math.isfinite(false)):  # a TypeError where it is no number at all
        raise EngineError("vLLM sent a log-probability that is not a number, or not a finite one")
    return LabelLogprobs(float(true), float(false))


def _piece(data: str) -> Piece:
    with _well_formed("the answer's stream"):
        chunk = from_json(data, allow_inf_nan=False)
        if "error" in chunk:
            raise EngineError(f"vLLM failed while answering: {_message(chunk)}")
        if any(choice.get("finish_reason") == "abort" for choice in chunk["choices"]):
            raise EngineError("vLLM aborted the answer")
        usage = chunk.get("usage")
        return Piece(
            text="".join(choice["text"] for choice in chunk["choices"]),
            is_unfinished=any(choice.get("finish_reason") == "length" for choice in chunk["choices"]),
            usage=Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"])) if usage else None,
        )


async def _raise_for_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    try:
        reason = _message(response.json())
    except ValueError:
        reason = response.text
    message = f"vLLM answered {response.status_code}: {reason[:300]}"
    if response.status_code in (429, 503):
        raise EngineOverloadedError(message)
    raise EngineRefusedError(message) if response.status_code < 500 else EngineError(message)


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)


@contextmanager
def _translated() -> Iterator[None]:
    """httpx's errors become the service's: out of time, or no usable answer."""
    try:
        yield
    except httpx.ConnectTimeout as exc:
        raise EngineError("vLLM can't be reached: no connection in time") from exc
    except (httpx.TimeoutException, TimeoutError) as exc:
        raise DeadlineError("vLLM did not answer in the time this request has") from exc
    except (httpx.RequestError, SSEError) as exc:
        raise EngineError(f"vLLM can't be reached: {type(exc).__name__} {exc}".rstrip()) from exc


@contextmanager
def _well_formed(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise EngineError(f"vLLM sent something else than {what} should be: {exc!r}") from exc
