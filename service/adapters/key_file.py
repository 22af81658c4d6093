"""API keys from a file, read again whenever it changes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import structlog
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.core.access import ApiKey, Keyring, Scope
from service.errors import ConfigError
from service.settings import Rates

log = structlog.get_logger(__name__)

HASH_PREFIX = "sha256:"
FIELD = "auth.key_file"


class KeyEntry(BaseModel):
    """One row of the file: a list of these in YAML or JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)]
    rate_limit: Rates | None = None

    def key(self) -> ApiKey:
        digest = bytes.fromhex(self.hash.removeprefix(HASH_PREFIX))
        return ApiKey(self.name, digest, frozenset(self.scopes), self.rate_limit)


def _are_distinct(entries: list[KeyEntry]) -> list[KeyEntry]:
    for field in ("name", "hash"):
        values = [getattr(entry, field) for entry in entries]
        if again := next((value for number, value in enumerate(values) if value in values[:number]), None):
            raise ValueError(f"two entries have the {field} {again}")
    return entries


_ENTRIES = TypeAdapter(Annotated[list[KeyEntry], Field(min_length=1), AfterValidator(_are_distinct)])


def parse_keys(text: bytes, source: str) -> Keyring:
    """Raises ConfigError, which names every entry and field that is wrong and shows no value."""
    try:
        return Keyring(tuple(entry.key() for entry in _ENTRIES.validate_python(yaml.safe_load(text))))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{source} is neither YAML nor JSON", field=FIELD) from exc
    except ValidationError as exc:
        raise ConfigError(f"{source}: {_told(exc.errors(include_input=False))}", field=FIELD) from exc


def _told(errors: Sequence[Any]) -> str:
    return "; ".join(f"{'.'.join(map(str, error['loc'])) or 'entries'}: {error['msg']}" for error in errors)


def entry_text(name: str, digest: bytes, scopes: Sequence[str], rate_limit: str | None = None) -> str:
    """The entry as a row of the file.

    Raises:
        ConfigError: the file would not take it.
    """
    row = {"name": name, "hash": HASH_PREFIX + digest.hex(), "scopes": list(scopes)}
    text = yaml.safe_dump([row | ({"rate_limit": rate_limit} if rate_limit else {})], sort_keys=False)
    parse_keys(text.encode(), "the entry")
    return text


class KeyFile:
    """The keys in `path`. A new file that is wrong changes nothing but the log and a counter.

    It is compared by its content, so that any way to replace it is noticed: an edit, a rename, or the swapped symlink
    by which Kubernetes updates a mounted Secret.
    """

    def __init__(
        self, path: Path, *, interval_s: float, count_reload: Callable[[bool], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        """Raises ConfigError where there are no keys to start with."""
        self._path = path
        self._interval_s = interval_s
        self._count_reload = count_reload
        self._sleep = sleep
        self._text = _read(path)
        self._keyring = parse_keys(self._text, str(path))

    def keyring(self) -> Keyring:
        return self._keyring

    async def run(self) -> None:
        """Look at the file for ever."""
        while True:
            await self._sleep(self._interval_s)
            await self.refresh()

    async def refresh(self) -> None:
        """Take over what has changed."""
        try:
            text = await asyncio.to_thread(_read, self._path)
        except ConfigError as exc:
            self._refuse(b"", exc)
            return
        if text == self._text:
            return
        try:
            keyring = parse_keys(text, str(self._path))
        except ConfigError as exc:
            self._refuse(text, exc)
        else:
            self._text, self._keyring = text, keyring
            self._count_reload(True)
            log.info("keys_reloaded", num_keys=len(keyring.keys))

    def _refuse(self, text: bytes, exc: ConfigError) -> None:
        """Told once for each content, and the keys that were valid stay so."""
        if text != self._text:
            self._text = text
            self._count_reload(False)
            log.error("keys_not_reloaded", error=exc.message)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} can't be read: {exc.strerror}", field=FIELD) from exc
