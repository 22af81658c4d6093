"""Who asks and how often, decided before a byte of the body is read; plain ASGI."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.access_log import tell
from service.api.errors import error_response
from service.api.response_headers import with_headers
from service.core.access import SCOPE_OF, ApiKey, Keyring, authorise, caller_at
from service.errors import ForbiddenError, RankRAGError, RateLimitedError, UnauthenticatedError
from service.metrics import Metrics
from service.ports import Allowance, RateLimiter

LIMITED_PATHS = frozenset(path for path, scope in SCOPE_OF.items() if scope != "admin")

# For the OpenAPI document alone: the middleware below has decided before a route is asked.
KEY_NEEDED = [
    Security(HTTPBearer(auto_error=False, description="An API key as a bearer token.")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key; `api-key` does, too.")),
]


@dataclass(frozen=True, slots=True)
class Access:
    """`keyring` gives the keys that are valid now; None where nobody needs one."""

    keyring: Callable[[], Keyring] | None
    rate_limiter: RateLimiter
    rates: str | None


class Authenticate:
    """Lets through who may ask for this path, and leaves the key in the request's state as `caller`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access: Access = scope["app"].state.access
        scope.setdefault("state", {})
        try:
            caller = authorise(access.keyring(), scope["headers"], scope["path"]) if access.keyring else None
        except RankRAGError as exc:
            self._metrics.errors.labels(exc.code).inc()
            tell(scope, error=exc.code)
            await error_response(exc, _challenge(exc))(scope, receive, send)
            return
        scope["state"]["caller"] = caller
        if caller:
            tell(scope, caller=caller.name)
        await self._app(scope, receive, send)


def _challenge(exc: RankRAGError) -> dict[str, str]:
    """RFC 6750, section 3."""
    if isinstance(exc, UnauthenticatedError):
        return {"WWW-Authenticate": 'Bearer realm="rankrag"'}
    if isinstance(exc, ForbiddenError):
        return {"WWW-Authenticate": f'Bearer realm="rankrag", error="insufficient_scope", scope="{exc.field}"'}
    return {}


class Throttle:
    """Refuses a caller that asks too often, and tells every other how much is left."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in LIMITED_PATHS:
            await self._app(scope, receive, send)
            return
        access: Access = scope["app"].state.access
        caller: ApiKey | None = scope["state"]["caller"]
        rates = caller.rate_limit or access.rates if caller else access.rates
        if rates is None:
            await self._app(scope, receive, send)
            return
        allowance = await access.rate_limiter.take(f"key:{caller.name}" if caller else _address(scope), rates)
        telling = with_headers(send, rate_headers(allowance))
        if allowance.is_granted:
            await self._app(scope, receive, telling)
            return
        self._metrics.errors.labels(RateLimitedError.code).inc()
        tell(scope, error=RateLimitedError.code)
        await error_response(_refusal(allowance))(scope, receive, telling)


def _address(scope: Scope) -> str:
    return f"address:{caller_at(scope['client'][0])}" if scope.get("client") else "address:unknown"


def _refusal(allowance: Allowance) -> RateLimitedError:
    message = f"more than {allowance.limit} requests in {allowance.window_s} s"
    return RateLimitedError(message, limit=allowance.limit, retry_after_s=allowance.reset_s)


def rate_headers(allowance: Allowance) -> dict[str, str]:
    """As of draft-ietf-httpapi-ratelimit-headers-10, and the older three that most clients read; times in seconds."""
    return {
        "RateLimit-Policy": f'"default";q={allowance.limit};w={allowance.window_s}',
        "RateLimit": f'"default";r={allowance.remaining};t={allowance.reset_s}',
        "X-RateLimit-Limit": str(allowance.limit),
        "X-RateLimit-Remaining": str(allowance.remaining),
        "X-RateLimit-Reset": str(allowance.reset_s),
    }
