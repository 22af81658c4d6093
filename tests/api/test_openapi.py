"""The API does what its OpenAPI document says, whatever is sent."""

from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Settings(), FakeServices().open))

# What the document can't say: "5" is taken for 5 and 0 for false, for lenient clients; limits are settings.
UNSAID: list[CheckFunction] = [negative_data_rejection, positive_data_acceptance]


@schema.parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_responses_conform_to_the_document(case: schemathesis.Case[Any]) -> None:
    case.call_and_validate(excluded_checks=UNSAID)


async def test_document_names_every_path(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {"/answer", "/rerank", "/livez", "/readyz", "/metrics"}
