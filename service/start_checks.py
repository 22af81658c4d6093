"""What is wrong with the settings beyond their types: fields that don't fit together, files that aren't there.

Everything is looked at before anything heavy is loaded, so that one start tells all.
"""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from service.adapters.index_directory import read_manifest
from service.adapters.judged_files import read_judged
from service.adapters.key_file import parse_keys
from service.adapters.prompt_files import read_prompts
from service.adapters.ranking_gate import check_probe
from service.app import NO_KEYS
from service.errors import ConfigError, RankRAGError
from service.server import key_password
from service.settings import Mistake, Settings, TlsSettings

MAX_PORT = 65_535


def mistakes_in(settings: Settings) -> list[Mistake]:
    """Every one that can be found without the engine, in the order of the settings."""
    checks = (_checkpoint, _prompts, _defaults, _ports, _index, _gate, _keys, _tls, _grace)
    return [mistake for check in checks for mistake in check(settings)]


def _told(field: str, read: Callable[[], object]) -> Iterator[Mistake]:
    try:
        read()
    except RankRAGError as exc:
        yield Mistake(field, exc.message)


def _checkpoint(settings: Settings) -> Iterator[Mistake]:
    """A relative name may be a hub's id, which only the start itself asks for."""
    path = Path(settings.checkpoint)
    if settings.checkpoint.startswith(("/", ".")) and not path.is_dir():
        yield Mistake("checkpoint", f"{path} is not a directory")


def _prompts(settings: Settings) -> Iterator[Mistake]:
    yield from _told("prompts", lambda: read_prompts(settings.prompts))


def _defaults(settings: Settings) -> Iterator[Mistake]:
    """Nobody could ask for what a request gets that asks for nothing."""
    limits = settings.limits
    pairs = (
        ("top_n", settings.top_n, "max_top_n", limits.max_top_n),
        ("top_k", settings.top_k, "max_top_k", limits.max_top_k),
        ("max_tokens", settings.max_tokens, "max_answer_tokens", limits.max_answer_tokens),
        ("request_timeout_s", settings.request_timeout_s, "max_deadline_ms", limits.max_deadline_ms / 1000),
    )
    for field, value, limit_field, limit in pairs:
        if value > limit:
            yield Mistake(field, f"{value} is more than limits.{limit_field} allows ({limit:g})")


def _ports(settings: Settings) -> Iterator[Mistake]:
    first, workers = settings.admin.port, settings.workers
    if first and first <= settings.port < first + workers:
        yield Mistake("admin.port", f"{settings.port} is the main port already: choose another, or 0 for none")
    if first + workers - 1 > MAX_PORT:
        yield Mistake("admin.port", f"{first} leaves no room for the ports of {workers} workers")


def _index(settings: Settings) -> Iterator[Mistake]:
    path = settings.index.path
    if path is not None:
        yield from _told("index.path", lambda: read_manifest(path))


def _gate(settings: Settings) -> Iterator[Mistake]:
    path, has_index = settings.gate.probe, settings.index.path is not None
    if path is not None:
        yield from _told("gate.probe", lambda: check_probe(read_judged(path), has_index=has_index))


def _keys(settings: Settings) -> Iterator[Mistake]:
    path = settings.auth.key_file
    if settings.auth.mode == "keys" and path is None:
        yield Mistake("auth.key_file", NO_KEYS)
    elif path is not None:
        yield from _told("auth.key_file", lambda: parse_keys(_bytes_of(path), str(path)))


def _tls(settings: Settings) -> Iterator[Mistake]:
    tls = settings.tls
    if tls.cert_file is None:
        given = [field for field in ("key_file", "key_password_file", "client_ca_file") if getattr(tls, field)]
        yield from (Mistake(f"tls.{field}", "is of no use without tls.cert_file") for field in given)
        return
    unread = [mistake for field in type(tls).model_fields for mistake in _unread(tls, field)]
    yield from unread or _told("tls.cert_file", lambda: _load(tls))


def _unread(tls: TlsSettings, field: str) -> Iterator[Mistake]:
    path: Path | None = getattr(tls, field)
    if path is not None:
        yield from _told(f"tls.{field}", lambda: _bytes_of(path))


def _load(tls: TlsSettings) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(str(tls.cert_file), tls.key_file, lambda: key_password(tls) or "")
        if tls.client_ca_file:
            context.load_verify_locations(tls.client_ca_file)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise ConfigError(f"certificate, key and password don't go together: {exc}") from exc


def _grace(settings: Settings) -> Iterator[Mistake]:
    if settings.shutdown.grace_s < settings.request_timeout_s:
        message = f"{settings.shutdown.grace_s} is less than request_timeout_s: requests in flight would be lost"
        yield Mistake("shutdown.grace_s", message)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} can't be read: {exc.strerror}") from exc
