"""What a request can fail with.

RankRAGError
├── InvalidRequestError     4xx   a field is wrong or over a limit: `param` and `limit` say which
├── AuthenticationError     401   no API key, or one that is not known
├── PermissionDeniedError   403   the key may not do this
├── BusyError               429   too much to do for now, or this caller asks too often: see `retry_after_s`
├── UnavailableError        503   the service or what it needs is down
├── DeadlineError           504   not done in the time the request has
├── ServerError             5xx   anything else that went wrong there
└── UnreachableError        -     no answer: connection refused, lost or too slow
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import httpx


@dataclass(eq=False, slots=True)
class RankRAGError(Exception):
    """`code` is the service's own name of the error, "" where no body of its own came (a proxy's answer)."""

    message: str
    status: int | None = None
    code: str = ""
    param: str | None = None
    limit: int | None = None
    request_id: str | None = None
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class InvalidRequestError(RankRAGError):
    pass


class AuthenticationError(RankRAGError):
    pass


class PermissionDeniedError(RankRAGError):
    pass


class BusyError(RankRAGError):
    pass


class UnavailableError(RankRAGError):
    pass


class DeadlineError(RankRAGError):
    pass


class ServerError(RankRAGError):
    pass


class UnreachableError(RankRAGError):
    pass


_BY_STATUS: Final[Mapping[int, type[RankRAGError]]] = MappingProxyType(
    {
        401: AuthenticationError,
        403: PermissionDeniedError,
        429: BusyError,
        503: UnavailableError,
        504: DeadlineError,
    }
)

# A stream that has begun can't change its status: there the code alone says what happened.
_STATUS_OF: Final[Mapping[str, int]] = MappingProxyType(
    {
        "unauthenticated": 401,
        "forbidden": 403,
        "not_found": 404,
        "method_not_allowed": 405,
        "request_timeout": 408,
        "request_too_large": 413,
        "invalid_request": 422,
        "overloaded": 429,
        "rate_limited": 429,
        "headers_too_large": 431,
        "engine_refused": 502,
        "engine_unavailable": 503,
        "engine_overloaded": 503,
        "rerank_gated": 503,
        "index_unavailable": 503,
        "shutting_down": 503,
        "deadline_exceeded": 504,
    }
)


def kind_of(status: int) -> type[RankRAGError]:
    return _BY_STATUS.get(status) or (ServerError if status >= 500 else InvalidRequestError)


def error_from_response(response: httpx.Response) -> RankRAGError:
    """`response` must have been read."""
    retry_after_s = retry_after(response.headers)
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        message = f"{response.status_code} {response.reason_phrase}"
        return kind_of(response.status_code)(message, response.status_code, retry_after_s=retry_after_s)
    return _error(body, response.status_code, retry_after_s)


def error_from_event(body: Mapping[str, Any]) -> RankRAGError:
    """Of the last event of a stream that failed."""
    error = body.get("error")
    code = str(error.get("code")) if isinstance(error, Mapping) else ""
    return _error(body, _STATUS_OF.get(code, 500), None)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date, which this service never sends, is not read."""
    try:
        return max(float(headers["Retry-After"]), 0.0)
    except (KeyError, ValueError):
        return None


def _error(body: Mapping[str, Any], status: int, retry_after_s: float | None) -> RankRAGError:
    error = body.get("error")
    detail: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    return kind_of(status)(
        message=str(body.get("message") or body.get("detail") or status),
        status=status,
        code=str(detail.get("code", "")),
        param=detail.get("param"),
        limit=detail.get("limit"),
        request_id=body.get("request_id"),
        retry_after_s=retry_after_s,
    )
