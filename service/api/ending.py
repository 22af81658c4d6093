"""The end of the process, as its callers see it."""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access_log import tell
from service.api.errors import error_response
from service.errors import ShuttingDownError
from service.metrics import Metrics


@dataclass(slots=True)
class Life:
    """Whether the process has been told to end: then it is not ready, though it still answers."""

    is_ending: bool = False


class FinishInFlight:
    """While the process ends, connections aren't kept, and a request that has to be cut off is told so."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        life: Life = scope["app"].state.life
        is_started = False

        async def sending(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                if life.is_ending:
                    message = _closing(message)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if is_started or not life.is_ending:
                raise
            self._metrics.errors.labels(ShuttingDownError.code).inc()
            tell(scope, error=ShuttingDownError.code)
            error = ShuttingDownError("not done before this process had to end: ask again")
            await error_response(error)(scope, receive, sending)


def _closing(message: Message) -> Message:
    """The client makes its next request to another replica, rather than on a connection that is about to go."""
    kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
    return {**message, "headers": [*kept, (b"connection", b"close")]}
