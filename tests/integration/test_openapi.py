"""The running service against its own OpenAPI document: generated requests, good and bad, and what follows on them."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckContext, CheckFunction, not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.app import create_app
from service.settings import Settings
from tests.fuzzing import give_time

NUM_CASES = 2_000
MOST_S = 10.0
LINKED = ("POST /answer", "POST /search", "POST /rerank", "POST /v2/rerank", "POST /v1/chat/completions")

schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
sent: Counter[str] = Counter()


def soon(_: CheckContext, response: Response, case: schemathesis.Case[Any]) -> None:
    sent[case.operation.label] += 1
    assert response.elapsed < MOST_S, f"{case.operation.label} took {response.elapsed:.1f} s"


CHECKS: list[CheckFunction] = [
    soon,
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@pytest.mark.timeout(900)
def test_no_request_breaks_the_service_or_its_document(case: schemathesis.Case[Any], service: str) -> None:
    give_time(case)
    case.call_and_validate(base_url=service, checks=CHECKS)


@pytest.mark.timeout(900)
def test_what_follows_from_a_response_breaks_nothing_either(service: str) -> None:
    """By the document's links, in scenarios of some steps."""
    followed: Counter[str] = Counter()

    class Scenario(schema.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: schemathesis.Case[Any]) -> None:
            give_time(case)

        def get_call_kwargs(self, _: schemathesis.Case[Any]) -> dict[str, Any]:
            return {"base_url": service}

        def validate_response(self, response: Response, case: schemathesis.Case[Any], **_: Any) -> None:
            case.validate_response(response, checks=CHECKS)

        def after_call(self, response: Response, case: schemathesis.Case[Any]) -> None:
            followed[case.operation.label] += response.status_code == 200

    assert issubclass(Scenario, APIStateMachine)
    Scenario.run(
        settings=settings(
            max_examples=150, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
    )  # fmt: skip
    print(f"\n{sent.total()} cases, {followed.total()} good ones in scenarios: {dict(followed)}")
    assert all(followed[label] for label in LINKED)


def test_that_were_thousands() -> None:
    """Of this file as a whole."""
    assert sent.total() >= NUM_CASES
