"""Around every request, as plain ASGI: a bound on the body, one log line, the request metrics."""

import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access_log import tell, told
from service.api.errors import error_response
from service.errors import TooLargeError
from service.metrics import Metrics

log = structlog.get_logger(__name__)

# What a request whose client went away before its response counts as: nginx's code for it.
CLIENT_GONE = 499

# Asked every few seconds by machines: they have no log line and no span.
QUIET = frozenset({"/livez", "/readyz", "/metrics"})


class BodyLimit:
    """Reads the body up to `max_bytes` before the app sees it; a longer one is a 413, unread beyond that."""

    def __init__(self, app: ASGIApp, max_bytes: int, metrics: Metrics) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages, size, is_complete = [], 0, False
        while not is_complete and size <= self._max_bytes:
            messages.append(await receive())
            if messages[-1]["type"] == "http.disconnect":
                return
            size += len(messages[-1].get("body", b""))
            is_complete = not messages[-1].get("more_body", False)
        if size > self._max_bytes:
            self._metrics.errors.labels(TooLargeError.code).inc()
            tell(scope, error=TooLargeError.code)
            error = TooLargeError(f"body: more than {self._max_bytes} bytes", field="body", limit=self._max_bytes)
            await error_response(error)(scope, receive, send)
            return
        waiting = iter(messages)

        async def replay() -> Message:
            return next(waiting, None) or await receive()

        await self._app(scope, replay, send)


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
        if route not in QUIET:
            log.info(
                "request", method=scope["method"], route=route, status=status, seconds=round(seconds, 4), **told(scope)
            )  # fmt: skip


def _route(scope: Scope) -> str:
    route: Any = scope.get("route")
    return getattr(route, "path", "unmatched")
