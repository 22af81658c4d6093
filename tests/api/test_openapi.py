"""The API does what its OpenAPI document says, whatever is sent."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from service.app import create_app
from service.settings import AdminSettings, Settings
from tests.fakes import FakeServices
from tests.fuzzing import give_time

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Settings(), FakeServices().open))

ROOT = Path(__file__).parents[2]

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank", "/infinity/rerank")

# What the document can't say: "5" is taken for 5 and 0 for false, for lenient clients; limits are settings; this app
# asks for no key.
UNSAID: list[CheckFunction] = [negative_data_rejection, positive_data_acceptance, ignored_auth]


@schema.parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_responses_conform_to_the_document(case: schemathesis.Case[Any]) -> None:
    give_time(case)
    case.call_and_validate(excluded_checks=UNSAID)


def test_document_is_the_one_that_is_shipped() -> None:
    """`make openapi` writes it anew: then the change is one for callers to know of, and the diff shows it."""
    shipped = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert create_app(Settings(admin=AdminSettings())).openapi() == shipped


def test_every_operation_has_a_name_for_clients_and_a_body_an_example() -> None:
    document = create_app(Settings()).openapi()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.islower() for name in names)
    for operation in operations:
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content and not content.get("examples"):
            name = content["schema"]["$ref"].rpartition("/")[2]
            assert document["components"]["schemas"][name]["examples"], operation["operationId"]


async def test_document_names_every_path(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/answer",
        "/search",
        "/v1/chat/completions",
        *RERANK_PATHS,
        "/v1/models",
        "/livez",
        "/readyz",
        "/metrics",
    }


@pytest.mark.parametrize(
    ("path", "body"), [("/answer", "AnswerRequest"), *((path, "RerankRequest") for path in RERANK_PATHS)]
)
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


@pytest.mark.parametrize("path", RERANK_PATHS)
async def test_examples_in_the_document_work(client: httpx.AsyncClient, path: str) -> None:
    document = (await client.get("/openapi.json")).json()
    examples = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert len(examples) == (4 if path == "/rerank" else 3)
    for example in examples.values():
        response = await client.post(path, json=example["value"])
        assert response.status_code == 200, response.text
