"""Several processes on one port, each a whole service."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from socket import socket
from types import FrameType

import structlog

from service.errors import ConfigError
from service.logs import configure_logs
from service.server import bound_socket
from service.serving import CHECKPOINT_EXIT, CONFIG_EXIT, run_worker
from service.settings import Settings

log = structlog.get_logger(__name__)

TICK_S = 0.1


def run_workers(settings: Settings) -> int:
    """Serve with `settings.workers` processes until a signal; the exit code is as `run_server`'s."""
    configure_logs(settings)
    try:
        listener = bound_socket(settings.host, settings.port, "port")
    except ConfigError as exc:
        log.error("start_refused", error=exc.message, code=exc.code)
        return CONFIG_EXIT
    workers = Workers(settings, listener)
    with _stopped_by_signals(workers):
        return workers.run()


class Workers:
    """Starts them again when they die, and ends them all when one says that it must not be started."""

    def __init__(self, settings: Settings, listener: socket) -> None:
        self._settings = settings
        self._listener = listener
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[int, SpawnProcess] = {}
        self._is_told_to_end = False
        self._is_ending = False
        self._code = 0

    def run(self) -> int:
        for number in range(self._settings.workers):
            self._start(number)
        while self._running:
            if self._is_told_to_end and not self._is_ending:
                self._end()
            wait([process.sentinel for process in self._running.values()], TICK_S)
            for number, process in list(self._running.items()):
                if process.exitcode is not None:
                    self._ended(number, process.exitcode)
        return self._code

    def stop(self) -> None:
        """Soon, from a signal handler or another thread."""
        self._is_told_to_end = True

    def _end(self) -> None:
        """Each worker ends in its own time."""
        self._is_ending = True
        self._listener.close()
        for process in self._running.values():
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, signal.SIGTERM)

    def _start(self, number: int) -> None:
        process = self._context.Process(target=_work, args=(self._settings, self._listener, number))
        process.start()
        self._running[number] = process

    def _ended(self, number: int, code: int) -> None:
        del self._running[number]
        if self._is_ending:
            return
        if code in (CONFIG_EXIT, CHECKPOINT_EXIT):  # it would end in the same way again, and so would the others
            self._code = code
            self._end()
        else:
            log.error("worker_died", worker=number, exit_code=code)
            self._start(number)


def _work(settings: Settings, listener: socket, number: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(run_worker(settings, listener, number))


def _end_with_parent() -> None:
    """Without it, nobody would look after the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _stopped_by_signals(workers: Workers) -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        workers.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
