"""Around every request, as plain ASGI: bounds on headers and body, one log line, the request metrics."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access_log import tell, told
from service.api.errors import error_response
from service.core.access import SCOPE_OF
from service.errors import HeadersTooLargeError, RankRAGError, SlowRequestError, TooLargeError
from service.metrics import Metrics

log = structlog.get_logger(__name__)

# What a request whose client went away before its response counts as: nginx's code for it.
CLIENT_GONE = 499

# Asked every few seconds by machines: they have no log line and no span.
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
# But for who may not ask.
REFUSED = frozenset({401, 403})


class HeaderLimit:
    """A target and headers of more than `max_bytes`, or more than `max_headers` of them, are a 431."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_headers: int, metrics: Metrics) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_headers = max_headers
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._error(scope)):
            self._metrics.errors.labels(error.code).inc()
            tell(scope, error=error.code)
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _error(self, scope: Scope) -> RankRAGError | None:
        headers = scope["headers"]
        if len(headers) > self._max_headers:
            message = f"headers: {len(headers)} given, at most {self._max_headers} allowed"
            return HeadersTooLargeError(message, field="headers", limit=self._max_headers)
        if head_bytes(scope) > self._max_bytes:
            message = f"headers: more than {self._max_bytes} bytes"
            return HeadersTooLargeError(message, field="headers", limit=self._max_bytes)
        return None


def head_bytes(scope: Scope) -> int:
    """Bytes of the target and of the headers, with the four that separate each from the next."""
    target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return target + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


class BodyLimit:
    """Reads the body up to `max_bytes` before the app sees it; a longer one is a 413, unread beyond that.

    One that isn't complete within `timeout_s` is a 408.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float, metrics: Metrics) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            messages = await self._read(receive)
        except RankRAGError as exc:
            self._metrics.errors.labels(exc.code).inc()
            tell(scope, error=exc.code)
            await error_response(exc, {"Connection": "close"})(scope, receive, send)
            return
        if messages[-1]["type"] == "http.disconnect":
            return
        waiting = iter(messages)

        async def replay() -> Message:
            return next(waiting, None) or await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> list[Message]:
        """All of the body, or what came before the client hung up. Raises TooLargeError, SlowRequestError."""
        messages, size, is_complete = [], 0, False
        try:
            async with asyncio.timeout(self._timeout_s):
                while not is_complete:
                    messages.append(await receive())
                    size += len(messages[-1].get("body", b""))
                    is_complete = not messages[-1].get("more_body", False)  # hanging up is an end, too
                    if size > self._max_bytes:
                        message = f"body: more than {self._max_bytes} bytes"
                        raise TooLargeError(message, field="body", limit=self._max_bytes)
        except TimeoutError as exc:
            raise SlowRequestError(f"body: not complete within {self._timeout_s:g} s", field="body") from exc
        return messages


class Observe:
    """Counts, times and logs each request by its route, never by its raw path."""

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_s, status = self._clock(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with self._metrics.in_flight.track_inprogress():
                await self._app(scope, receive, sending)
            status = status or CLIENT_GONE
        finally:
            self._record(scope, status or 500, self._clock() - begun_s)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if route not in QUIET or status in REFUSED:
            log.info(
                "request", method=scope["method"], route=route, status=status, seconds=round(seconds, 4), **told(scope)
            )  # fmt: skip


def _route(scope: Scope) -> str:
    """Where a request was refused before it was routed, its path counts if it is one of ours."""
    route: Any = scope.get("route")
    return getattr(route, "path", scope["path"] if scope["path"] in SCOPE_OF else "unmatched")
