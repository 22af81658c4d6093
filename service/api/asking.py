"""What every question brings along: how long it may take, and whether caches may know of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Header, Request

from service.api.deadline import Deadline, while_connected
from service.api.limits import check_deadline_header
from service.api.services import Services

CacheControl = Annotated[str | None, Header(description="`no-store` neither reads nor writes any cache.")]
DeadlineHeader = Annotated[
    int | None, Header(alias="X-Deadline-Ms", ge=1, description="As `deadline_ms`, where the body has none.")
]


def is_no_store(cache_control: str | None) -> bool:
    directives = (cache_control or "").lower().split(",")
    return "no-store" in (directive.strip() for directive in directives)


def deadline_of(body_ms: int | None, header_ms: int | None, services: Services) -> Deadline:
    """The moment by which this request must be done, made here once: by its body, its header or the settings."""
    check_deadline_header(header_ms, services.settings.limits)
    asked_ms = body_ms or header_ms
    within_s = asked_ms / 1000 if asked_ms else services.settings.request_timeout_s
    return Deadline(services.clock() + within_s, within_s)


@asynccontextmanager
async def bounds(
    request: Request, deadline: Deadline, services: Services, *, grace_s: float = 0.0
) -> AsyncIterator[None]:
    """Nothing outlives the request's deadline or its client, whatever it waits for."""
    async with while_connected(request), deadline.limit(services.clock, grace_s=grace_s):
        yield
