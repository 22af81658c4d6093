"""The proxy does to connections what it is told to, and nothing else."""

import asyncio
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from tests.chaos.proxy import Proxy
from tests.listening import HOST, listening


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with listening(echo) as port, Proxy(port) as proxy:
        yield proxy


Connection = tuple[StreamReader, StreamWriter]
Connect = Callable[[Proxy], Awaitable[Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections through a proxy; closed at the end, however they were left."""
    writers: list[StreamWriter] = []

    async def open_one(proxy: Proxy) -> Connection:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        writers.append(writer)
        return reader, writer

    yield open_one
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def say(connection: Connection, line: bytes = b"a line\n") -> bytes:
    reader, writer = connection
    writer.write(line)
    return await asyncio.wait_for(reader.readline(), 2)


async def test_what_is_said_comes_through(proxy: Proxy, connect: Connect) -> None:
    connection = await connect(proxy)
    assert await say(connection) == b"a line\n"
    assert await say(connection, b"another\n") == b"another\n"
    assert proxy.num_connections == 1


async def test_slow_means_later_both_ways(proxy: Proxy, connect: Connect) -> None:
    connection = await connect(proxy)
    proxy.slow(0.1)
    begun = time.monotonic()
    assert await say(connection) == b"a line\n"
    assert time.monotonic() - begun >= 0.2
    await proxy.heal()


async def test_silence_holds_everything_until_it_is_healed(proxy: Proxy, connect: Connect) -> None:
    connection = await connect(proxy)
    assert await say(connection) == b"a line\n"
    proxy.silence()
    waiting = asyncio.create_task(say(connection))
    _, pending = await asyncio.wait({waiting}, timeout=0.2)
    assert pending
    await proxy.heal()
    assert await waiting == b"a line\n"


async def test_cut_resets_connections_and_takes_no_new_one(proxy: Proxy, connect: Connect) -> None:
    connection = await connect(proxy)
    assert await say(connection) == b"a line\n"
    port = proxy.port
    await proxy.cut()
    with pytest.raises(ConnectionResetError):
        await say(connection)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)
    await proxy.heal()
    assert proxy.port == port
    connection = await connect(proxy)
    assert await say(connection) == b"a line\n"


async def test_nobody_behind_it_ends_the_connection(connect: Connect) -> None:
    async with listening(echo) as port:
        pass
    async with Proxy(port) as proxy:
        with pytest.raises(ConnectionResetError):
            await say(await connect(proxy))
