"""Who may ask for what: API keys, known by their digests alone, and the scope that each path needs.

A key is 256 random bits, so that nobody can guess one and a plain SHA-256 of it gives nothing away; a slow hash, as for
passwords, would only slow every request.
"""

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

from service.errors import ForbiddenError, NotFoundError, UnauthenticatedError

Scope: TypeAlias = Literal["answer", "rerank", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

KEY_PREFIX: Final = "rrk_"
KEY_BYTES: Final = 32

# What a path needs. One that is in no table is for `admin` alone, so that a new route is closed until it is here.
SCOPE_OF: Final[Mapping[str, Scope]] = MappingProxyType(
    {
        "/answer": "answer", "/search": "answer", "/v1/chat/completions": "answer",
        "/rerank": "rerank", "/v1/rerank": "rerank", "/v2/rerank": "rerank",
        "/infinity/rerank": "rerank",
        "/metrics": "admin",
    }
)  # fmt: skip
ANY_KEY_PATHS: Final = frozenset({"/v1/models"})
PLAYGROUND: Final = "/playground"  # what the page at / loads
OPEN_PATHS: Final = frozenset({"/", "/livez", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One caller's key. `rate_limit` goes before the service's own, e.g. `100/minute`."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    rate_limit: str | None = None


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys that are valid now."""

    keys: tuple[ApiKey, ...] = ()

    def find(self, token: bytes) -> ApiKey | None:
        """The key that `token` is. Every key is compared, each in constant time: how long it takes says nothing."""
        digest, found = key_digest(token), None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def key_digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def new_key(entropy: bytes) -> str:
    """A key made of `KEY_BYTES` random bytes; the prefix lets secret scanners and our own log filter see it."""
    return KEY_PREFIX + base64.urlsafe_b64encode(entropy).rstrip(b"=").decode()


def given_token(headers: Headers) -> bytes | None:
    """From `Authorization: Bearer`, `X-API-Key` or `api-key`, whichever comes first; names are in small letters."""
    for name, value in headers:
        if name == b"authorization":
            kind, _, token = value.partition(b" ")
            if kind.lower() == b"bearer" and token.strip():
                return token.strip()
        elif name in (b"x-api-key", b"api-key") and value.strip():
            return value.strip()
    return None


def authorise(keyring: Keyring, headers: Headers, path: str) -> ApiKey | None:
    """The caller, if `path` may be asked with the key in `headers`; None where it needs no key.

    Raises:
        UnauthenticatedError: there is no key, or it is not known.
        ForbiddenError: it lacks the path's scope.
        NotFoundError: no caller but an administrator is told which other paths there are.
    """
    if path in OPEN_PATHS or path.startswith(f"{PLAYGROUND}/"):
        return None
    token = given_token(headers)
    if token is None:
        raise UnauthenticatedError("an API key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`")
    key = keyring.find(token)
    if key is None:
        raise UnauthenticatedError("this API key is not known")
    scope = SCOPE_OF.get(path, "admin")
    if scope in key.scopes or path in ANY_KEY_PATHS:
        return key
    if path in SCOPE_OF:
        raise ForbiddenError(f"this API key lacks the scope `{scope}`", field=scope)
    raise NotFoundError("no such path")


def caller_at(address: str) -> str:
    """What a client without a key counts as: its IPv4 address, or the /64 network that one IPv6 customer has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 6:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
