"""A TCP proxy whose way can be made slow, silent or cut while connections go through it."""

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter

HOST = "127.0.0.1"
_CHUNK_BYTES = 65_536


class Proxy:
    """From a port of its own to `target_port`. To be entered before use."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._delay_s = 0.0
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], StreamWriter] = {}

    async def __aenter__(self) -> "Proxy":
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    def slow(self, delay_s: float) -> None:
        """What comes, from either side, goes on so much later."""
        self._delay_s = delay_s

    def silence(self) -> None:
        """Connections stay, and new ones are taken, but nothing goes through any more."""
        self._flows.clear()

    async def cut(self) -> None:
        """Reset every connection and take no new one."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = dict(self._connections)
        for task, writer in tasks.items():
            _reset(writer)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn

    async def heal(self) -> None:
        """An open way again, for those connections that there still are and for new ones."""
        self._delay_s = 0.0
        self._flows.set()
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connect, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            await self._carry(reader, writer)
            writer.close()
        except OSError:
            _reset(writer)
        except asyncio.CancelledError:
            _reset(writer)  # cut; asyncio's server would log it
        finally:
            del self._connections[task]

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Until either side ends, as keep-alive connections do."""
        target_reader, target_writer = await asyncio.open_connection(HOST, self.target_port)
        ways = [
            asyncio.ensure_future(self._pump(reader, target_writer)),
            asyncio.ensure_future(self._pump(target_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            await writer.drain()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            target_writer.transport.abort()

    async def _pump(self, reader: StreamReader, writer: StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            await asyncio.sleep(self._delay_s)
            await self._flows.wait()
            writer.write(chunk)
            await writer.drain()


def _reset(writer: StreamWriter) -> None:
    """Close at once, by RST: what was not read yet is lost, as when a machine goes away."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
