"""uvicorn around the app, with logs and exit codes."""

import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog
import uvicorn
from sse_starlette.sse import AppStatus

from service.api.ending import Life
from service.api.services import Services
from service.app import Death, create_admin_app, create_app, open_pipeline
from service.errors import CheckpointError, ConfigError, RankRAGError
from service.logs import configure_logs
from service.metrics import Metrics
from service.ports import Tracer
from service.server import GracefulServer, bound_socket, plain, serving_beside, tls_options
from service.settings import Settings

CONFIG_EXIT, CHECKPOINT_EXIT = 2, 3

log = structlog.get_logger(__name__)


def run_server(settings: Settings) -> int:
    """Serve until a signal; the exit code says how it ended.

    0 after a signal, 2 for a wrong configuration, 3 for a checkpoint that must not be served.
    """
    return _run(settings, lambda: _ports(settings))


def run_worker(settings: Settings, listener: socket.socket, number: int) -> int:
    """As `run_server`, on a socket that several processes share; `number` counts them from 0."""
    return _run(settings, lambda: Ports(listener, _admin_port(settings, number)))


def _run(settings: Settings, find_ports: Callable[[], "Ports"]) -> int:
    configure_logs(settings)
    AppStatus.enable_automatic_graceful_drain = False  # streams end by themselves, all of them within their deadlines
    try:
        ports = find_ports()
    except ConfigError as exc:
        log.error("start_refused", error=exc.message, code=exc.code)
        return CONFIG_EXIT
    return _serve(settings, ports, Process())


@dataclass(frozen=True, slots=True)
class Ports:
    """Bound, and listened on as soon as there is something to answer with."""

    main: socket.socket
    admin: socket.socket | None


@dataclass(frozen=True, slots=True)
class Process:
    """How this process is doing, and of what it died."""

    life: Life = field(default_factory=Life)
    death: Death = field(default_factory=Death)


def _ports(settings: Settings) -> Ports:
    """Raises ConfigError."""
    return Ports(bound_socket(settings.host, settings.port, "port"), _admin_port(settings, 0))


def _admin_port(settings: Settings, number: int) -> socket.socket | None:
    """Raises ConfigError."""
    admin = settings.admin
    return bound_socket(admin.host, admin.port + number, "admin.port") if admin.port else None


def _serve(settings: Settings, ports: Ports, process: Process) -> int:
    death = process.death
    app = create_app(
        settings,
        lambda s, metrics, tracer: open_or_tell(s, metrics, tracer, ports, process),
        process.life,
        on_death=death.stop_process,
    )
    config = uvicorn.Config(
        app, lifespan="on", timeout_graceful_shutdown=settings.shutdown.grace_s,
        forwarded_allow_ips=settings.trusted_proxies, **plain(settings.limits), **tls_options(settings.tls),
    )  # fmt: skip
    # What is wrong beyond repair must not answer any longer.
    server = GracefulServer(config, process.life, delay_s=lambda: 0.0 if death.causes else settings.shutdown.delay_s)
    with suppress(SystemExit):  # uvicorn's own exit code says only that the start failed
        server.run(sockets=[ports.main])
    if death.causes:
        return CHECKPOINT_EXIT if isinstance(death.causes[0], CheckpointError) else CONFIG_EXIT
    return 0 if server.started else CONFIG_EXIT


@asynccontextmanager
async def open_or_tell(
    settings: Settings, metrics: Metrics, tracer: Tracer, ports: Ports, process: Process
) -> AsyncIterator[Services]:
    """`open_pipeline` and the admin port; what stops the start is logged in one line, for the exit code, too."""
    death = process.death
    try:
        async with AsyncExitStack() as stack:
            services = await stack.enter_async_context(
                open_pipeline(settings, metrics, tracer, on_death=death.stop_process)
            )  # fmt: skip
            if ports.admin:
                admin = create_admin_app(services, process.life)
                await stack.enter_async_context(
                    serving_beside(admin, ports.admin, settings.limits, death.stop_process)
                )  # fmt: skip
            _freeze_heap()
            log.info("serving", main=ports.main.getsockname(), admin=ports.admin and ports.admin.getsockname())
            yield services
    except RankRAGError as exc:
        log.error("start_refused", error=exc.message, code=exc.code)
        death.causes.append(exc)
        raise


def _freeze_heap() -> None:
    """Keep the garbage collector off what the start has made: a walk through all of it stops every request."""
    gc.collect()
    gc.freeze()
