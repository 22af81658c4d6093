"""What the routes work with, made once by the composition root."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.core.prompts import PromptSet
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.ports import NO_TRACER, DocumentCutter, Scorer, Tracer
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Dependency:
    """How one thing that the service needs is doing, in words."""

    ok: bool
    detail: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Services:
    """The open pipeline."""

    settings: Settings
    metrics: Metrics
    prompts: PromptSet
    scorer: Scorer
    cutter: DocumentCutter
    pipeline: Pipeline
    model: str
    index_version: str
    dependencies: Callable[[], Mapping[str, Dependency]]
    clock: Callable[[], float]
    tracer: Tracer = NO_TRACER


async def _services(request: Request) -> Services:
    """A coroutine, since FastAPI calls plain functions in a thread."""
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(_services)]
