"""uvicorn, with bounds on what comes before a request is one, and an end that loses none."""

import asyncio
import signal
import socket
import ssl
from asyncio import TimerHandle, Transport
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any, ClassVar

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import HANDLED_SIGNALS

from service.adapters.engine import supervise
from service.api.ending import Life
from service.errors import ConfigError
from service.settings import LimitSettings, TlsSettings

log = structlog.get_logger(__name__)

TICK_S = 0.1
ADMIN_GRACE_S = 1

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n"
    b"x-content-type-options: nosniff\r\n\r\n"
)


class BoundedHttp(HttpToolsProtocol):
    """A head that grows too large or comes too slowly ends its connection: uvicorn itself would wait for ever.

    Complete heads are `HeaderLimit`'s matter, which can answer in the service's own form.
    """

    max_head_bytes: ClassVar[int]
    head_timeout_s: ClassVar[float]
    _head_bytes = 0
    _is_in_head = False
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._is_in_head = 0, True

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._head_came()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._refuse()
                return
        if self._is_in_head or self.cycle is None or self.cycle.response_complete:
            self._await_head()

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        self.transport.close()


def bounded_http(limits: LimitSettings) -> type[HttpToolsProtocol]:
    """The protocol's class; uvicorn makes one object a connection of it."""

    class Bounded(BoundedHttp):
        max_head_bytes = limits.max_header_bytes
        head_timeout_s = limits.head_timeout_s

    return Bounded


class GracefulServer(uvicorn.Server):
    """Told to end by SIGTERM, it is unready at once, takes requests for `delay_s` more, and finishes them all.

    SIGINT, which a person sends, is not followed by that wait. No signal is raised again at the end, as uvicorn would:
    the process has an exit code of its own.
    """

    def __init__(self, config: uvicorn.Config, life: Life, *, delay_s: Callable[[], float]) -> None:
        """`delay_s` is asked once the end has begun: it may depend on why."""
        super().__init__(config)
        self._life = life
        self._delay_s = delay_s
        self._is_hurried = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._life.is_ending = True
        self._is_hurried = self._is_hurried or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        delay_s = 0.0 if self._is_hurried else self._delay_s()
        log.info("shutting_down", delay_s=delay_s, grace_s=self.config.timeout_graceful_shutdown)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        while loop.time() < begun_s + delay_s and not self.force_exit:  # noqa: ASYNC110 (signal handlers set no event)
            await asyncio.sleep(TICK_S)
        await super().shutdown(sockets)


class BesideServer(uvicorn.Server):
    """One that leaves the signals to the main server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving_beside(
    app: ASGIApp, listener: socket.socket, limits: LimitSettings, on_death: Callable[[BaseException], None]
) -> AsyncIterator[None]:
    """Serve `app` on `listener` until the block ends."""
    server = BesideServer(uvicorn.Config(app, lifespan="off", timeout_graceful_shutdown=ADMIN_GRACE_S, **plain(limits)))
    task = asyncio.create_task(supervise(lambda: server.serve(sockets=[listener]), on_death))
    try:
        yield
    finally:
        server.should_exit = True
        await task


def plain(limits: LimitSettings) -> dict[str, Any]:
    """What both servers have in common: our own logs, no banner, no WebSockets, one process.

    asyncio's own loop accepts all connections that wait; uvloop accepts one each time round. Under load a time round
    takes tens of milliseconds, and callers would wait outside for longer than their deadlines, which nothing in here
    knows of.
    """
    return {
        "http": bounded_http(limits), "ws": "none", "log_config": None, "access_log": False, "server_header": False,
        "timeout_keep_alive": limits.idle_timeout_s, "workers": 1, "loop": "asyncio",
    }  # fmt: skip


def tls_options(tls: TlsSettings) -> dict[str, Any]:
    """As uvicorn calls them; none where the main port speaks plain HTTP."""
    if tls.cert_file is None:
        return {}
    return {
        "ssl_certfile": tls.cert_file,
        "ssl_keyfile": tls.key_file,
        "ssl_keyfile_password": key_password(tls),
        "ssl_ca_certs": tls.client_ca_file,
        "ssl_cert_reqs": ssl.CERT_REQUIRED if tls.client_ca_file else ssl.CERT_NONE,
    }


def key_password(tls: TlsSettings) -> str | None:
    if tls.key_password_file is None:
        return None
    return tls.key_password_file.read_text("utf-8").removesuffix("\n")


def bound_socket(host: str, port: int, field: str) -> socket.socket:
    """A socket that has the address but doesn't listen yet: who comes too early is refused, and doesn't hang.

    It names its protocol, as its connections then do: asyncio sends small answers at once (TCP_NODELAY) on those only.

    Raises:
        ConfigError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as exc:
        found.close()
        raise ConfigError(f"{host}:{port} can't be listened on: {exc.strerror or exc}", field=field) from exc
    return found
