"""When a request must be done, and that nothing outlives it: neither its deadline nor its client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from service.errors import DeadlineError


@dataclass(frozen=True, slots=True)
class Deadline:
    """An absolute moment on the service's clock, and the seconds that the request had until then."""

    at_s: float
    within_s: float

    @asynccontextmanager
    async def limit(self, clock: Callable[[], float], *, grace_s: float = 0.0) -> AsyncIterator[None]:
        """Ends what is awaited inside at the deadline, or `grace_s` later. Raises DeadlineError."""
        try:
            async with asyncio.timeout(self.at_s + grace_s - clock()):
                yield
        except TimeoutError as exc:
            raise DeadlineError(f"not done within {self.within_s:g} s") from exc


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Ends what is awaited inside as soon as the client hangs up. The request's body must have been read.

    Raises:
        ClientDisconnect: there is nobody left to answer.
    """
    task = asyncio.current_task()
    assert task is not None
    num_cancels, is_gone = task.cancelling(), False

    async def listen() -> None:
        nonlocal is_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_gone = task.cancel()

    listener = asyncio.create_task(listen())
    try:
        yield
    except asyncio.CancelledError as exc:
        if is_gone and task.uncancel() <= num_cancels:  # else the server, too, wants an end
            raise ClientDisconnect from exc
        raise
    finally:
        listener.cancel()
        await asyncio.wait([listener])
