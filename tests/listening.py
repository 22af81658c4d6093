"""A TCP server for one test, which leaves no task and no connection behind, however callers have left."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

HOST = "127.0.0.1"


@asynccontextmanager
async def listening(handle: Callable[[StreamReader, StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """The port that `handle` is called on, once a connection; what still runs at the end is cancelled."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle_and_close(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await handle(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the test; asyncio's server would log it
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            handlers.discard(task)

    server = await asyncio.start_server(handle_and_close, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for task in set(handlers):
        task.cancel()
    await asyncio.gather(*handlers, return_exceptions=True)
