"""Errors from whatever body comes."""

import re

import httpx
import pytest

from rankrag import errors
from rankrag.errors import InvalidRequestError, RankRAGError, ServerError, error_from_response, retry_after


@pytest.mark.parametrize("content", [b"", b"<html>Bad Gateway</html>", b"[]", b'"text"', b"\xff"])
def test_bodies_that_are_not_the_services_are_errors_too(content: bytes) -> None:
    error = error_from_response(httpx.Response(502, content=content))
    assert type(error) is ServerError
    assert (error.message, error.code, error.status) == ("502 Bad Gateway", "", 502)


@pytest.mark.parametrize("body", [{}, {"error": "text"}, {"error": None, "detail": "text"}])
def test_bodies_that_lack_fields_are_errors_too(body: dict[str, object]) -> None:
    error = error_from_response(httpx.Response(400, json=body))
    assert type(error) is InvalidRequestError
    assert error.message


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3.0), ("0", 0.0), ("-1", 0.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)],
)
def test_retry_after_is_read_in_seconds(value: str, expected: float | None) -> None:
    assert retry_after(httpx.Headers({"Retry-After": value})) == expected
    assert retry_after(httpx.Headers()) is None


def test_drawing_shows_every_kind() -> None:
    drawn = re.findall(r"^[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE)
    assert drawn == [kind.__name__ for kind in RankRAGError.__subclasses__()]
