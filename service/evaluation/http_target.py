"""A running service as the target of an evaluation."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import httpx
from httpx_sse import SSEError, aconnect_sse

from service.errors import EngineError, OverloadedError
from service.evaluation.targets import Ranking, Reply
from service.types import Passage

DEADLINE_MS: Final = 60_000
NUM_ATTEMPTS: Final = 20

Event = tuple[str, dict[str, Any]]


class HttpTarget:
    """Asks with caches off, as bulk work, and again where the service is busy."""

    def __init__(
        self, http: httpx.AsyncClient, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:  # fmt: skip
        self._http = http
        self._sleep = sleep
        self._model = ""

    @property
    def checkpoint(self) -> str:
        return self._model

    async def check(self) -> None:
        """Whether it ranks, and what with: one pair, before all the others.

        Raises:
            EngineError: it can't be reached, or not now; says why.
        """
        await self.rank("Is it so?", [Passage("0", "It is so.")])

    async def retrieve(self, question: str, top_n: int) -> tuple[str, ...]:
        async with aclosing(self._events({"question": question, "top_n": top_n, "max_tokens": 1})) as events:
            async for kind, event in events:
                if kind == "search_results":
                    return tuple(passage["id"] for passage in event["passages"])
        raise EngineError("/answer ended before its search results")

    async def rank(self, question: str, passages: Sequence[Passage]) -> Ranking:
        documents = [{"text": passage.text, "title": passage.title} for passage in passages]
        begun_s = time.monotonic()
        body = await self._rerank({"query": question, "documents": documents, **_ALWAYS})
        relevances = {row["index"]: float(row["relevance_score"]) for row in body["results"]}
        if body["degraded"] or len(relevances) != len(passages):
            raise EngineError(f"/rerank left out documents: degraded {body['degraded']}")
        return Ranking(
            ids=tuple(passage.id for passage in passages),
            relevances=tuple(relevances[index] for index in range(len(passages))),
            seconds=time.monotonic() - begun_s,
            num_tokens=int(body["usage"]["prompt_tokens"]),
        )

    async def retrieve_and_rank(self, question: str, top_n: int) -> Ranking:
        """All that were retrieved are kept, so that all scores come back; the answer is not waited for."""
        begun_s = time.monotonic()
        body = {"question": question, "top_n": top_n, "top_k": top_n, "max_tokens": 1}
        async with aclosing(self._events(body)) as events:
            async for kind, event in events:
                if kind == "rerank":
                    return _ranking(event, time.monotonic() - begun_s)
        raise EngineError("/answer ended before its ranking")

    async def answer(
        self, question: str, passages: Sequence[Passage] | None, *, top_n: int | None, top_k: int | None
    ) -> Reply:
        body: dict[str, Any] = {"question": question, "top_k": top_k}
        body |= {"top_n": top_n} if passages is None else {"passages": [_given(passage) for passage in passages]}
        begun_s = time.monotonic()
        async with aclosing(self._events(body)) as events:
            found = {kind: event async for kind, event in events}
        if "final" not in found:
            raise EngineError("/answer ended before its answer")
        self._model = str(found["final"]["model"])
        return _reply(found["search_results"], found["final"], time.monotonic() - begun_s)

    async def _rerank(self, body: Mapping[str, Any]) -> dict[str, Any]:
        for _ in range(NUM_ATTEMPTS):
            try:
                response = await self._http.post("/rerank", json=body)
                await _check(response, "/rerank")
            except OverloadedError as exc:
                await self._sleep(exc.retry_after_s or 1)
            except httpx.HTTPError as exc:
                raise EngineError(f"{self._http.base_url} can't be reached: {exc!r}") from exc
            else:
                found: dict[str, Any] = response.json()
                self._model = str(found["model"])
                return found
        raise EngineError("/rerank is overloaded")

    async def _events(self, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Of one streamed answer, to the last one wanted."""
        for _ in range(NUM_ATTEMPTS):
            try:
                async with aclosing(self._stream({**body, "stream": True, **_ALWAYS})) as events:
                    async for event in events:
                        yield event
            except OverloadedError as exc:
                await self._sleep(exc.retry_after_s or 1)
            except (httpx.HTTPError, SSEError) as exc:
                raise EngineError(f"{self._http.base_url} can't be reached: {exc!r}") from exc
            else:
                return
        raise EngineError("/answer is overloaded")

    async def _stream(self, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        async with aconnect_sse(self._http, "POST", "/answer", json=body) as source:
            await _check(source.response, "/answer")
            async for sent in source.aiter_sse():
                event: dict[str, Any] = sent.json()
                if sent.event == "error":
                    raise EngineError(f"/answer: {event['message']}")
                if any(name.startswith("rerank") for name in event.get("degraded", ())):
                    raise EngineError(f"/answer: degraded: {event['degraded']}")
                yield sent.event, event


_ALWAYS: Final[Mapping[str, Any]] = {"cache": False, "priority": "bulk", "deadline_ms": DEADLINE_MS}


async def _check(response: httpx.Response, path: str) -> None:
    if response.is_success:
        return
    await response.aread()
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:300]
    if response.status_code == OverloadedError.status:
        raise OverloadedError(message, retry_after_s=int(response.headers.get("Retry-After", 1)))
    raise EngineError(f"{path}: {response.status_code}: {message}")


def _given(passage: Passage) -> dict[str, Any]:
    return {"id": passage.id, "title": passage.title, "text": passage.text}


def _ranking(event: Mapping[str, Any], seconds: float) -> Ranking:
    rows = sorted(event["passages"], key=lambda row: int(row["retrieval_rank"]))
    if any(row["relevance_score"] is None for row in rows):
        raise EngineError("/answer left passages without a score: evaluate with RANKRAG_EARLY_EXIT=off")
    return Ranking(
        ids=tuple(row["id"] for row in rows),
        relevances=tuple(float(row["relevance_score"]) for row in rows),
        seconds=seconds,
        num_tokens=None,
    )


def _reply(retrieved: Mapping[str, Any], final: Mapping[str, Any], seconds: float) -> Reply:
    return Reply(
        text=final["answer"],
        is_abstention=bool(final["abstained"]),
        retrieved=tuple(passage["id"] for passage in retrieved["passages"]),
        kept=tuple(passage["id"] for passage in final["passages"]),
        num_pairs=int(final["usage"]["pairs_scored"]),
        num_tokens=int(final["usage"]["prompt_tokens"]),
        seconds=seconds,
    )
