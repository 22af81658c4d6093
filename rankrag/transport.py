"""Asking again where the service says when: as a transport, which is where httpx lets one stand in between.

Connections that can't be opened are tried again by httpx itself (`retries`). A library for the rest (tenacity,
httpx-retries) would be a second dependency for one rule: wait as long as `Retry-After` says, so often and no longer.
Asking twice is safe: no request changes anything.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import httpx

from rankrag.errors import retry_after

_PASSING: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how long at most between two tries."""

    max_retries: int = 2
    max_wait_s: float = 10.0

    def wait_s(self, response: httpx.Response, num_tries: int) -> float | None:
        """How long to wait before the next try; None where `response` is the last word."""
        if response.status_code not in _PASSING or num_tries > self.max_retries:
            return None
        wait_s = retry_after(response.headers)
        return None if wait_s is None or wait_s > self.max_wait_s else wait_s


class RetryTransport(httpx.BaseTransport):
    def __init__(
        self, inner: httpx.BaseTransport, retries: Retries, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._inner = inner
        self._retries = retries
        self._sleep = sleep

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        num_tries = 1
        while True:
            response = self._inner.handle_request(request)
            wait_s = self._retries.wait_s(response, num_tries)
            if wait_s is None:
                return response
            response.close()
            self._sleep(wait_s)
            num_tries += 1

    def close(self) -> None:
        self._inner.close()


class AsyncRetryTransport(httpx.AsyncBaseTransport):
    def __init__(
        self, inner: httpx.AsyncBaseTransport, retries: Retries,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._inner = inner
        self._retries = retries
        self._sleep = sleep

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        num_tries = 1
        while True:
            response = await self._inner.handle_async_request(request)
            wait_s = self._retries.wait_s(response, num_tries)
            if wait_s is None:
                return response
            await response.aclose()
            await self._sleep(wait_s)
            num_tries += 1

    async def aclose(self) -> None:
        await self._inner.aclose()
