"""What the routes work with, made once by the composition root."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.core.prompts import PromptSet
from service.errors import EngineError
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.ports import Scorer
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Dependency:
    """How one thing that the service needs is doing, in words."""

    ok: bool
    detail: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Services:
    """The open pipeline. `pipeline` is None where no index is configured: then only /rerank works."""

    settings: Settings
    metrics: Metrics
    prompts: PromptSet
    scorer: Scorer
    pipeline: Pipeline | None
    model: str
    index_version: str
    dependencies: Callable[[], Mapping[str, Dependency]]
    clock: Callable[[], float]

    def require_engine(self) -> None:
        """Raises EngineError, at once, where the engine is known to be down."""
        engine = self.dependencies()["engine"]
        if not engine.ok:
            raise EngineError(engine.detail)


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(_services)]
