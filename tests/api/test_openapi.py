"""The API does what its OpenAPI document says, whatever is sent."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices
from tests.fuzzing import give_time

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Settings(), FakeServices().open))

# What the document can't say: "5" is taken for 5 and 0 for false, for lenient clients; limits are settings.
UNSAID: list[CheckFunction] = [negative_data_rejection, positive_data_acceptance]


@schema.parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_responses_conform_to_the_document(case: schemathesis.Case[Any]) -> None:
    give_time(case)
    case.call_and_validate(excluded_checks=UNSAID)


async def test_document_names_every_path(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {"/answer", "/rerank", "/livez", "/readyz", "/metrics"}


@pytest.mark.parametrize(("path", "body"), [("/answer", "AnswerRequest"), ("/rerank", "RerankRequest")])
async def test_document_tells_how_to_ask_for_time_and_turn(client: httpx.AsyncClient, path: str, body: str) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"][path]["post"]
    headers = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    assert {"type": "integer", "minimum": 1} in headers["X-Deadline-Ms"]["anyOf"]
    assert "`overloaded`" in operation["responses"]["429"]["description"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("Response")
    fields = document["components"]["schemas"][body]["properties"]
    for name in ("deadline_ms", "priority"):
        assert fields[name]["description"]
    assert "bulk" in str(fields["priority"])


async def test_document_describes_parts_of_a_ranking(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["RerankRequest"]["properties"]["allow_partial"]["default"] is False
    for body, field in (("RerankResponse", "degraded"), ("RerankMeta", "pairs_unscored")):
        assert field in schemas[body]["required"]
        assert schemas[body]["properties"][field]["description"]
    assert "rerank_partial" in str(schemas["AnswerResponse"]["properties"]["degraded"])
