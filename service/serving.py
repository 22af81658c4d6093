"""uvicorn around the app, with logs and exit codes."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
import uvicorn

from service.api.services import Services
from service.app import Death, create_app, open_pipeline
from service.errors import CheckpointError, RankRAGError
from service.logs import configure_logs
from service.metrics import Metrics
from service.ports import Tracer
from service.settings import Settings

CONFIG_EXIT, CHECKPOINT_EXIT = 2, 3
GRACE_S = 15

log = structlog.get_logger(__name__)


def run_server(settings: Settings, *, host: str, port: int) -> int:
    """Serve until a signal; the exit code says how it ended.

    0 after a signal, 2 for a wrong configuration, 3 for a checkpoint that must not be served.
    """
    configure_logs(settings)
    death = Death()
    app = create_app(settings, lambda s, m, tracer: open_or_tell(s, m, tracer, death))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=GRACE_S,
            server_header=False,
        )
    )
    with suppress(SystemExit):  # uvicorn's own exit code says only that the start failed
        server.run()
    if death.causes:
        return CHECKPOINT_EXIT if isinstance(death.causes[0], CheckpointError) else CONFIG_EXIT
    return 0 if server.started else CONFIG_EXIT


@asynccontextmanager
async def open_or_tell(settings: Settings, metrics: Metrics, tracer: Tracer, death: Death) -> AsyncIterator[Services]:
    """`open_pipeline`; what stops the start is logged in one line and remembered for the exit code."""
    try:
        async with open_pipeline(settings, metrics, tracer, on_death=death.stop_process) as services:
            _freeze_heap()
            yield services
    except RankRAGError as exc:
        log.error("start_refused", error=exc.message, code=exc.code)
        death.causes.append(exc)
        raise


def _freeze_heap() -> None:
    """Keep the garbage collector off what the start has made: a walk through all of it stops every request."""
    gc.collect()
    gc.freeze()
