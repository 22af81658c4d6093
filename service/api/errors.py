"""Every error as the one JSON body, and the OpenAPI rows for it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from service.api.access_log import tell
from service.api.dialects import Dialect, dialect_of
from service.api.filters import TAGS
from service.api.rerank_schemas import TextsErrorBody, TextsErrorType
from service.api.response_headers import security_headers
from service.api.schemas import ErrorBody, ErrorDetail
from service.errors import (
    DeadlineError,
    EngineError,
    EngineOverloadedError,
    EngineRefusedError,
    ForbiddenError,
    HeadersTooLargeError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RankRAGError,
    RateLimitedError,
    RequestError,
    ShuttingDownError,
    SlowRequestError,
    TooLargeError,
    UnauthenticatedError,
)
from service.metrics import Metrics
from service.redaction import redact

log = structlog.get_logger(__name__)

# What is refused before and while a body is read.
REQUEST_ERRORS: Final = (
    UnauthenticatedError, ForbiddenError, RateLimitedError, HeadersTooLargeError, SlowRequestError, RequestError,
    TooLargeError,
)  # fmt: skip
ENGINE_ERRORS: Final = (
    OverloadedError, EngineError, EngineOverloadedError, EngineRefusedError, DeadlineError, ShuttingDownError,
    RankRAGError,
)  # fmt: skip


def error_body(exc: RankRAGError) -> ErrorBody:
    message, id_ = redact(exc.message), correlation_id.get()  # what vLLM or a library said may hold a password
    detail = ErrorDetail(type=type(exc).__name__, code=exc.code, message=message, param=exc.field, limit=exc.limit)
    return ErrorBody(message=message, detail=message, error=detail, id=id_, request_id=id_)


def texts_error_body(exc: RankRAGError) -> TextsErrorBody:
    """The same for who sent `texts`."""
    body = error_body(exc)
    said = {"message": body.message, "detail": body.detail, "error": body.message}
    return TextsErrorBody(**said, error_type=_texts_error_type(exc.status), id=body.id, request_id=body.request_id)


def _texts_error_type(status: int) -> TextsErrorType:
    if status < 500:
        return "Overloaded" if status == OverloadedError.status else "Validation"
    return "Unhealthy" if status == EngineError.status else "Backend"


def error_response(
    exc: RankRAGError, headers: Mapping[str, str] | None = None, dialect: Dialect | None = None
) -> Response:
    """The error with its own and the given headers; X-Request-ID is the middleware's to add."""
    retry_after = {} if exc.retry_after_s is None else {"Retry-After": str(max(exc.retry_after_s, 1))}
    body = texts_error_body(exc) if dialect is Dialect.TEI else error_body(exc)
    return JSONResponse(body.model_dump(), exc.status, {**(headers or {}), **retry_after})


def as_service_error(exc: Exception) -> RankRAGError:
    """The service's error for whatever was raised; unknown ones say nothing of the inside."""
    if isinstance(exc, RankRAGError):
        return exc
    if isinstance(exc, RequestValidationError):
        return _invalid(exc.errors())
    if isinstance(exc, HTTPException):
        return _http_error(exc)
    return RankRAGError("internal error; the log has the details under this request id")


# Of unions, which pydantic names among the fields.
_TAGS: Final = ("string", "object", "by_documents", "by_texts", *TAGS)


def _http_error(exc: HTTPException) -> RankRAGError:
    if exc.status_code == NotFoundError.status:
        return NotFoundError("no such path")
    if exc.status_code == MethodNotAllowedError.status:
        return MethodNotAllowedError("this path has no such method")
    return RequestError(str(exc.detail))


def _invalid(errors: Sequence[Any]) -> RequestError:
    """The first thing wrong, by the name of its field; how many more there are."""
    first = errors[0]
    path = [str(part) for part in first["loc"][1:] if part not in _TAGS]
    field = ".".join(path) or "body"
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    context = first.get("ctx") or {}
    limit = next((context[key] for key in ("max_length", "min_length", "ge", "le") if key in context), None)
    return RequestError(f"{field}: {first['msg']}{more}", field=field, limit=limit)


def _dialect(request: Request, exc: Exception) -> Dialect | None:
    """What the client speaks that `exc` is told to, as far as its body could be read."""
    if isinstance(exc, RequestValidationError):
        return dialect_of(request.url.path, exc.body)
    dialect: Dialect | None = getattr(request.state, "dialect", None)
    return dialect


class NoResponse(Response):
    """For a client that has gone: nothing is sent."""

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        return


def add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    async def handle(request: Request, exc: Exception) -> Response:
        error = as_service_error(exc)
        metrics.errors.labels(error.code).inc()
        tell(request.scope, error=error.code)
        if error is not exc and error.status >= 500:
            log.error("unexpected_error", exc_info=exc)
        headers = exc.headers if isinstance(exc, HTTPException) else None
        return error_response(error, headers, _dialect(request, exc))

    async def handle_unexpected(request: Request, exc: Exception) -> Response:
        """Starlette calls this outside of every middleware: nobody else adds their headers."""
        response = await handle(request, exc)
        response.headers["X-Request-ID"] = correlation_id.get() or ""
        response.headers.update(security_headers(request.scope))
        return response

    async def leave(_: Request, __: Exception) -> Response:
        return NoResponse()

    app.add_exception_handler(ClientDisconnect, leave)
    for kind in (RankRAGError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(Exception, handle_unexpected)


def error_rows(*kinds: type[RankRAGError], model: object = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` for a route that can raise `kinds` and tells of them with `model`."""
    rows: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        row = rows.setdefault(kind.status, {"model": model, "description": ""})
        row["description"] = ", ".join(filter(None, [row["description"], f"`{kind.code}`"]))
    return rows
