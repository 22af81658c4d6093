"""Several processes on one port, with workers that only say who they are."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import workers
from service.local_stack import HOST
from service.server import bound_socket
from service.serving import CHECKPOINT_EXIT
from service.settings import Settings
from service.workers import Workers
from tests.answering_worker import REFUSAL_EXIT, answering

WITHIN_S = 30


def asked(port: int, said: bytes = b"who") -> tuple[int, int]:
    with socket.create_connection((HOST, port), timeout=5) as connection:
        connection.sendall(said)
        number, pid = connection.recv(100).split()
    return int(number), int(pid)


def until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def all_numbers(port: int, count: int) -> dict[int, int]:
    """The process of each worker, once all have answered."""
    found: dict[int, int] = {}

    def is_complete() -> bool:
        try:
            number, pid = asked(port)
            found[number] = pid
        except OSError:
            pass
        return len(found) == count

    until(is_complete)
    return found


Running = tuple[Workers, int, list[int], threading.Thread]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(workers, "_work", answering)
    listener = bound_socket(HOST, 0, "port")
    port: int = listener.getsockname()[1]
    supervisor = Workers(Settings(workers=2), listener)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run()))
    thread.start()
    yield supervisor, port, codes, thread
    supervisor.stop()
    thread.join(WITHIN_S)


def test_workers_share_a_port_and_end_together(running: Running) -> None:
    supervisor, port, codes, thread = running
    pids = all_numbers(port, 2)
    assert os.getpid() not in pids.values()
    supervisor.stop()
    thread.join(WITHIN_S)
    assert codes == [0]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    with pytest.raises(OSError):
        asked(port)


def test_a_worker_that_dies_is_started_again(running: Running) -> None:
    supervisor, port, codes, thread = running
    before = all_numbers(port, 2)
    number, pid = asked(port, b"die")
    until(lambda: not Path(f"/proc/{pid}").exists())
    after = all_numbers(port, 2)
    assert after[number] != pid
    assert after[1 - number] == before[1 - number]
    supervisor.stop()
    thread.join(WITHIN_S)
    assert codes == [0]


def test_a_worker_that_must_not_be_started_ends_them_all(running: Running) -> None:
    _, port, codes, thread = running
    all_numbers(port, 2)
    asked(port, b"refuse")
    thread.join(WITHIN_S)
    assert REFUSAL_EXIT == CHECKPOINT_EXIT
    assert codes == [CHECKPOINT_EXIT]
