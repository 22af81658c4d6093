"""Is the process alive, can it be asked, and the metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.access import KEY_NEEDED
from service.api.ending import Life
from service.api.errors import error_rows
from service.api.schemas import Alive, DependencyBody, Readiness
from service.api.services import Dependency, ServicesDep
from service.errors import ForbiddenError, UnauthenticatedError
from service.redaction import redact

router = APIRouter()
metrics_router = APIRouter()

ENDING = Dependency(False, "shutting down: what is in flight is finished, then this process ends")


@router.get("/livez", operation_id="livez", summary="The process runs")
async def livez() -> Alive:
    return Alive()


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Questions can be asked",
    responses={503: {"model": Readiness, "description": "A required dependency is not ready."}},
)
async def readyz(request: Request, services: ServicesDep, response: Response) -> Readiness:
    """Each dependency by name. Ready means: the engine gave its last canary score in time, the index is open.

    Details, which tell addresses and versions, are for the admin port where callers of this one need keys.
    """
    life: Life = request.app.state.life
    found = {**services.dependencies(), **({"process": ENDING} if life.is_ending else {})}
    is_ready = all(dependency.ok for dependency in found.values() if dependency.required)
    response.status_code = 200 if is_ready else 503
    tells: bool = request.app.state.tells_details
    bodies = {
        name: DependencyBody(
            ok=dependency.ok, required=dependency.required, detail=redact(dependency.detail) if tells else ""
        )
        for name, dependency in found.items()
    }
    return Readiness(ready=is_ready, dependencies=bodies)


@metrics_router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    dependencies=KEY_NEEDED,
    responses=error_rows(UnauthenticatedError, ForbiddenError),
)
async def metrics(services: ServicesDep) -> Response:
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)
