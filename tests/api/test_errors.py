"""Every error of the service over HTTP: one shape, no exception."""

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from service.api.errors import as_service_error, error_body, error_rows
from service.errors import (
    EngineError,
    EngineOverloadedError,
    RankRAGError,
    RequestError,
    TooLargeError,
)
from tests.fakes import FakeServices


def tree(kind: type[RankRAGError] = RankRAGError) -> list[type[RankRAGError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]


RERANK = {"query": "q", "documents": ["d"]}


def assert_error(response: httpx.Response, kind: type[RankRAGError], *, message: str | None = None) -> None:
    body = response.json()
    assert response.status_code == kind.status
    assert response.headers["Content-Type"] == "application/json"
    assert set(body) == {"message", "detail", "error", "id", "request_id"}
    assert set(body["error"]) == {"type", "code", "message", "param", "limit"}
    assert body["message"] == body["detail"] == body["error"]["message"] != ""
    assert (body["error"]["type"], body["error"]["code"]) == (kind.__name__, kind.code)
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert message is None or message == body["message"]


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: str(kind.__name__))
async def test_every_error_has_the_one_shape(
    client: httpx.AsyncClient, fakes: FakeServices, kind: type[RankRAGError]
) -> None:
    fakes.scorer.error = kind("what happened", field="documents", limit=3)
    response = await client.post("/rerank", json=RERANK)
    assert_error(response, kind, message="what happened")
    assert (response.json()["error"]["param"], response.json()["error"]["limit"]) == ("documents", 3)


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: str(kind.__name__))
async def test_retry_after_is_given_where_trying_again_can_help(
    client: httpx.AsyncClient, fakes: FakeServices, kind: type[RankRAGError]
) -> None:
    fakes.scorer.error = kind("what happened")
    response = await client.post("/rerank", json=RERANK)
    expected = None if kind.retry_after_s is None else str(kind.retry_after_s)
    assert response.headers.get("Retry-After") == expected
    assert (kind.status in (429, 503)) == (kind.retry_after_s is not None)


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: str(kind.__name__))
async def test_every_error_is_counted_once(
    client: httpx.AsyncClient, fakes: FakeServices, kind: type[RankRAGError]
) -> None:
    fakes.scorer.error = kind("what happened")
    await client.post("/rerank", json=RERANK)
    metrics = (await client.get("/metrics")).text
    assert f'rankrag_errors_total{{code="{kind.code}"}} 1.0' in metrics
    assert f'rankrag_requests_total{{route="/rerank",status="{kind.status}"}} 1.0' in metrics


@pytest.mark.threat("T18")
async def test_unknown_error_says_nothing_of_the_inside(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    fakes.scorer.error = RuntimeError("password is swordfish")
    response = await client.post("/rerank", json=RERANK)
    assert_error(response, RankRAGError)
    assert "swordfish" not in response.text


@pytest.mark.parametrize("path", ["/nothing", "/answer/more", "/v1/../etc"])
async def test_unknown_path_is_a_404_of_the_one_shape(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", "/answer", "POST"), ("POST", "/livez", "GET")])
async def test_wrong_method_is_a_405_that_names_the_right_one(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"
    assert response.headers["Allow"] == allowed


BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff",
    b"1" * 5000,
    b"[" * 100_000,
    b'{"question": "\\ud800"}',
    b'{"\\ud800": 1, "question": "q"}',
    b'{"question": "q", "filters": {"\\ud800": {}}}',
    b'{"question": "q", "filters": {"x": NaN}}',
    b'{"question": "q", "filters": {"x": 1e999}}',
    b'{"question": "q", "top_n": 1e30}',
    b'{"question": "q", "surprise": 1}',
]


@pytest.mark.parametrize("content", BODIES, ids=lambda content: content[:30].decode("latin-1"))
@pytest.mark.threat("T10")
async def test_body_that_makes_no_request_is_a_422_of_the_one_shape(client: httpx.AsyncClient, content: bytes) -> None:
    response = await client.post("/answer", content=content, headers={"Content-Type": "application/json"})
    assert_error(response, RequestError)


@pytest.mark.parametrize(
    ("content", "param", "limit"),
    [
        (b'{"question": ""}', "question", 1),
        (b"{}", "question", None),
        (b'{"question": "q", "top_k": 0}', "top_k", 1),
        (b'{"question": "q", "surprise": 1}', "surprise", None),
        (b'{"question": 5}', "question", None),
        (b"", "body", None),
    ],
)
async def test_first_wrong_field_is_named_with_its_limit(
    client: httpx.AsyncClient, content: bytes, param: str, limit: int | None
) -> None:
    response = await client.post("/answer", content=content, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (error["param"], error["limit"]) == (param, limit)
    assert error["message"].startswith(f"{param}: ")


async def test_number_of_further_mistakes_is_told(client: httpx.AsyncClient) -> None:
    response = await client.post("/answer", json={"question": "", "top_n": 0, "top_k": 0})
    assert "(2 more)" in response.json()["message"]


@given(st.text(max_size=50))
def test_known_errors_keep_their_words(message: str) -> None:
    error = EngineError(message)
    assert as_service_error(error) is error
    assert error_body(error).message == message


def test_openapi_rows_share_a_status_and_name_the_codes() -> None:
    rows = error_rows(EngineError, EngineOverloadedError, RequestError, TooLargeError)
    assert list(rows) == [503, 422, 413]
    assert rows[503]["description"] == "`engine_unavailable`, `engine_overloaded`"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/answer", "ErrorBody"),
        ("/rerank", "EitherErrorBody"),
        ("/v1/rerank", "ErrorBody"),
        ("/v2/rerank", "ErrorBody"),
    ],
)
def test_openapi_has_the_one_shape_for_every_error(app: FastAPI, path: str, model: str) -> None:
    responses = app.openapi()["paths"][path]["post"]["responses"]
    errors = {status: response for status, response in responses.items() if status != "200"}
    assert {"413", "422", "429", "500", "502", "503", "504"} <= set(errors)
    for response in errors.values():
        assert response["content"]["application/json"]["schema"]["$ref"].endswith(f"/{model}")
