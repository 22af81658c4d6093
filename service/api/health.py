"""Is the process alive, can it be asked, and the metrics."""

from dataclasses import asdict

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.schemas import Alive, DependencyBody, Readiness
from service.api.services import ServicesDep

router = APIRouter()


@router.get("/livez", summary="The process runs")
async def livez() -> Alive:
    return Alive()


@router.get(
    "/readyz",
    summary="Questions can be asked",
    responses={503: {"model": Readiness, "description": "A required dependency is not ready."}},
)
async def readyz(services: ServicesDep, response: Response) -> Readiness:
    """Each dependency by name. Ready means: the engine gave its last canary score in time, the index is open."""
    found = services.dependencies()
    is_ready = all(dependency.ok for dependency in found.values() if dependency.required)
    response.status_code = 200 if is_ready else 503
    bodies = {name: DependencyBody(**asdict(dependency)) for name, dependency in found.items()}
    return Readiness(ready=is_ready, dependencies=bodies)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(services: ServicesDep) -> Response:
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)
