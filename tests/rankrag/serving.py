"""The service over fakes, on a port of its own: for a client that blocks, and for real streams."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices


@contextmanager
def serving(fakes: FakeServices, settings: Settings | None = None) -> Iterator[str]:
    """Its base URL."""
    config = uvicorn.Config(create_app(settings or Settings(), fakes.open), host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive(), "the service did not start"
        [socket] = server.servers[0].sockets
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
