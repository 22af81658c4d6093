"""GET /v1/models, which OpenAI's clients and many others ask first."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.access import KEY_NEEDED
from service.api.errors import error_rows
from service.api.links import AFTER_MODELS
from service.api.services import ServicesDep
from service.errors import UnauthenticatedError

router = APIRouter()


class ModelBody(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(0, description="Always 0: a checkpoint doesn't say.")
    owned_by: Literal["rankrag"] = "rankrag"


class ModelsResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelBody]


@router.get(
    "/v1/models", operation_id="list_models", summary="The served checkpoint", dependencies=KEY_NEEDED,
    responses={200: {"links": AFTER_MODELS}, **error_rows(UnauthenticatedError)},
)  # fmt: skip
async def models(services: ServicesDep) -> ModelsResponse:
    """There is one, whatever `model` a request names."""
    return ModelsResponse(data=[ModelBody(id=services.model)])
