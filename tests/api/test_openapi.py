"""The API does what its OpenAPI document says, whatever is sent."""

import httpx
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import negative_data_rejection

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Settings(), FakeServices().open))

# Numbers and booleans that come as texts ("5", "true") are taken, for lenient clients; the document can't say so.
LENIENT = [negative_data_rejection]


@schema.parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_responses_conform_to_the_document(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=LENIENT)


async def test_document_names_every_path(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {"/answer", "/rerank", "/livez", "/readyz", "/metrics"}
