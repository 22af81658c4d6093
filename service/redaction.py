"""Secrets out of what people read: log lines and error messages."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr

HIDDEN: Final = "***"

# An API key of ours, credentials as HTTP carries them, the user part of a URL.
_PATTERN: Final = re.compile(
    r"(?P<key>\brrk_)[A-Za-z0-9_-]{8,}"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<url>://)[^/@\s\"']+(?=@)",
    re.IGNORECASE,
)
_USER_PART: Final = re.compile(r"://(?:[^/@\s:]*):([^/@\s]+)@")
MIN_SECRET_CHARS: Final = 4

Redact = Callable[[str], str]


def redact(text: str) -> str:
    """`text` without what looks like a secret."""
    return _PATTERN.sub(lambda match: f"{match['key'] or match['scheme'] or match['url']}{HIDDEN}", text)


def redacting(secrets: Iterable[str]) -> Redact:
    """As `redact`, and without these very values, whatever they look like and also as JSON writes them."""
    known = {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS}
    forms = known | {json.dumps(secret)[1:-1] for secret in known}
    if not forms:
        return redact
    exact = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))
    return lambda text: redact(exact.sub(HIDDEN, text))


def secrets_in(settings: BaseModel) -> Iterator[str]:
    """Every secret value and every password in a URL, of all sections."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from secrets_in(value)
        elif value is not None:
            for password in _USER_PART.findall(str(value)):
                yield from (password, unquote(password))


class RedactingFormatter(logging.Formatter):
    """What `inner` makes of a record, its traceback too, without secrets: the last thing before it is written."""

    def __init__(self, inner: logging.Formatter, hide: Redact) -> None:
        super().__init__()
        self._inner = inner
        self._hide = hide

    def format(self, record: logging.LogRecord) -> str:
        return self._hide(self._inner.format(record))
