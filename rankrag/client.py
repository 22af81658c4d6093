"""The two clients: the same calls, blocking and not."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, Unpack

import httpx

from rankrag.errors import UnreachableError, error_from_response
from rankrag.events import Decoder, Event
from rankrag.options import AnswerOptions, DocumentLike, Question, RerankOptions, SearchOptions
from rankrag.transport import AsyncRetryTransport, Retries, RetryTransport
from rankrag.types import Answer, Ranking, SearchResults

BASE_URL: Final = "http://127.0.0.1:8080"
TIMEOUT_S: Final = 65.0  # the longest deadline that the service allows by default, and a little


class Client:
    """Asks a rankrag service. May be used from several threads.

    A 429 or 503 is asked again when its `Retry-After` is over, `max_retries` times and if that is within `max_wait_s`.

    Every call raises RankRAGError: its subclasses are in `rankrag.errors`.
    """

    def __init__(
        self, base_url: str = BASE_URL, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S,
        max_retries: int = 2, max_wait_s: float = 10.0, transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        inner = transport or httpx.HTTPTransport(retries=max_retries)
        self._http = httpx.Client(
            base_url=base_url, headers=_headers(api_key), timeout=timeout_s,
            transport=RetryTransport(inner, Retries(max_retries, max_wait_s)),
        )  # fmt: skip

    def answer(self, question: Question, **options: Unpack[AnswerOptions]) -> Answer:
        """Answer from the index, or from `passages`; `question` may be a conversation."""
        return Answer.of(self._post("/answer", {**_asked(question), **options}))

    def stream(self, question: Question, **options: Unpack[AnswerOptions]) -> Iterator[Event]:
        """The same as things happen; a Final comes last. Closing the iterator ends the work in the service."""
        body = {**_asked(question), **options, "stream": True}
        with _unreachable_is_ours(), self._http.stream("POST", "/answer", json=body) as response:
            if response.is_error:
                response.read()
                raise error_from_response(response)
            decoder = Decoder()
            for piece in response.iter_bytes():
                yield from decoder.feed(piece)

    def rerank(self, query: str, documents: Sequence[DocumentLike], **options: Unpack[RerankOptions]) -> Ranking:
        """Order documents by relevance to the query, best first."""
        return Ranking.of(self._post("/rerank", {"query": query, "documents": documents, **options}))

    def search(self, query: str, **options: Unpack[SearchOptions]) -> SearchResults:
        """The retriever alone: passages of the index in its order, not reranked."""
        return SearchResults.of(self._post("/search", {"query": query, **options}))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        with _unreachable_is_ours():
            response = self._http.post(path, json=body)
        return _body_of(response)


class AsyncClient:
    """As Client, for an event loop."""

    def __init__(
        self, base_url: str = BASE_URL, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S,
        max_retries: int = 2, max_wait_s: float = 10.0, transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        inner = transport or httpx.AsyncHTTPTransport(retries=max_retries)
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=_headers(api_key), timeout=timeout_s,
            transport=AsyncRetryTransport(inner, Retries(max_retries, max_wait_s)),
        )  # fmt: skip

    async def answer(self, question: Question, **options: Unpack[AnswerOptions]) -> Answer:
        """Answer from the index, or from `passages`; `question` may be a conversation."""
        return Answer.of(await self._post("/answer", {**_asked(question), **options}))

    async def stream(self, question: Question, **options: Unpack[AnswerOptions]) -> AsyncIterator[Event]:
        """The same as things happen; a Final comes last. Closing the iterator ends the work in the service."""
        body = {**_asked(question), **options, "stream": True}
        with _unreachable_is_ours():
            async with self._http.stream("POST", "/answer", json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise error_from_response(response)
                decoder = Decoder()
                async for piece in response.aiter_bytes():
                    for event in decoder.feed(piece):
                        yield event

    async def rerank(self, query: str, documents: Sequence[DocumentLike], **options: Unpack[RerankOptions]) -> Ranking:
        """Order documents by relevance to the query, best first."""
        return Ranking.of(await self._post("/rerank", {"query": query, "documents": documents, **options}))

    async def search(self, query: str, **options: Unpack[SearchOptions]) -> SearchResults:
        """The retriever alone: passages of the index in its order, not reranked."""
        return SearchResults.of(await self._post("/search", {"query": query, **options}))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        with _unreachable_is_ours():
            response = await self._http.post(path, json=body)
        return _body_of(response)


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _asked(question: Question) -> Mapping[str, Any]:
    return {"question": question} if isinstance(question, str) else {"messages": question}


def _body_of(response: httpx.Response) -> Mapping[str, Any]:
    if response.is_error:
        raise error_from_response(response)
    body: Mapping[str, Any] = response.json()
    return body


@contextmanager
def _unreachable_is_ours() -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as exc:
        raise UnreachableError(f"the service gave no answer: {exc!r}") from exc
