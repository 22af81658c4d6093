"""uvicorn as we run it: raw bytes on real sockets, the two ports, TLS, and the end."""

import asyncio
import random
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import httpx
import pytest
import trustme
import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from service.api.ending import Life
from service.app import create_admin_app, create_app
from service.errors import ConfigError
from service.local_stack import HOST
from service.server import BesideServer, GracefulServer, bound_socket, plain, serving_beside, tls_options
from service.settings import LimitSettings, Settings, TlsSettings
from tests.api.keys import auth, bearer
from tests.fakes import FakeServices, until_running

LIMITS = LimitSettings(
    idle_timeout_s=1, max_header_bytes=2_000, head_timeout_s=0.3, body_timeout_s=0.3, max_body_bytes=1_000
)
RERANK = {"query": "q", "documents": ["d"]}
GOOD = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"


@asynccontextmanager
async def served(app: FastAPI, **options: Any) -> AsyncIterator[int]:
    """Serve on a port of this machine, which is given."""
    listener = bound_socket(HOST, 0, "port")
    server = BesideServer(uvicorn.Config(app, lifespan="on", timeout_graceful_shutdown=1, **plain(LIMITS), **options))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    port: int = listener.getsockname()[1]
    await until_listening(port)
    yield port
    server.should_exit = True
    await task


async def until_listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


async def sent(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """What comes back for these bytes until the server closes the connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        async with asyncio.timeout(5):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture
async def port(fakes: FakeServices) -> AsyncIterator[int]:
    async with served(create_app(Settings(limits=LIMITS), fakes.open)) as port:
        yield port


@pytest.fixture
def fakes() -> FakeServices:
    return FakeServices()


# What is no HTTP


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /rerank HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nx\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
@pytest.mark.threat("T10")
async def test_what_is_no_request_is_a_400_or_nothing(port: int, data: bytes) -> None:
    answer = await sent(port, data)
    status = answer.partition(b" ")[2][:3]
    assert status in (b"", b"400", b"404", b"405", b"422"), answer
    assert b"Traceback" not in answer
    assert b"200 OK" in await sent(port, GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


@pytest.mark.threat("T10")
async def test_a_thousand_random_openings_leave_it_alive(port: int) -> None:
    rng = random.Random(7)
    for _ in range(1_000):
        opening = rng.choice([GOOD, b"POST /rerank HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost"])
        data = bytearray(opening + rng.randbytes(rng.randrange(40)))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(data)
        writer.write_eof()
        try:
            async with asyncio.timeout(5):
                answer = await reader.read()
        except ConnectionError:
            answer = b""
        writer.close()
        assert not answer.partition(b" ")[2].startswith(b"5"), (bytes(data), answer)
        assert b"Traceback" not in answer
    assert b"200 OK" in await sent(port, GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


# What comes too slowly, or too much of it


@pytest.mark.threat("T08")
async def test_a_header_that_never_ends_is_cut(port: int) -> None:
    answer = await sent(port, b"GET / HTTP/1.1\r\nX: ", *[b"x" * 500] * 20, pause_s=0.005)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.threat("T09")
@pytest.mark.parametrize("parts", [[], [b"GET / HT"], [b"GET / HTTP/1.1\r\nHost: h\r\n"], [b"\r\n"]])
async def test_a_head_that_does_not_come_ends_its_connection(port: int, parts: list[bytes]) -> None:
    begun_s = time.monotonic()
    assert await sent(port, *parts) == b""
    assert LIMITS.head_timeout_s * 0.9 < time.monotonic() - begun_s < LIMITS.head_timeout_s + 2


@pytest.mark.threat("T09")
async def test_a_second_request_has_its_own_time_for_its_head(port: int) -> None:
    begun_s = time.monotonic()
    answer = await sent(port, GOOD, b"\r\n", b"GET / HT", pause_s=0.1)
    assert answer.count(b"200 OK") == 1
    assert time.monotonic() - begun_s < LIMITS.head_timeout_s + 2


@pytest.mark.threat("T09")
async def test_a_body_that_does_not_come_is_a_408_and_the_end(port: int) -> None:
    head = b"POST /rerank HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{"
    answer = await sent(port, head)
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_slow_answer_is_not_a_slow_head(port: int, fakes: FakeServices) -> None:
    fakes.scorer.delay_s = LIMITS.head_timeout_s * 3
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        for _ in range(2):
            assert (await client.post("/rerank", json=RERANK)).status_code == 200


# The admin port


@pytest.mark.threat("T21")
async def test_metrics_and_probes_are_on_the_admin_port_and_metrics_there_alone(
    tmp_path: Path, fakes: FakeServices
) -> None:
    settings = Settings(auth=auth(tmp_path), admin={"port": 1}, limits=LIMITS)
    app = create_app(settings, fakes.open)
    listener = bound_socket(HOST, 0, "admin.port")
    admin_url = f"http://{HOST}:{listener.getsockname()[1]}"
    async with served(app) as port:
        admin = create_admin_app(app.state.services, app.state.life)
        async with serving_beside(admin, listener, LIMITS, raise_it), httpx.AsyncClient() as client:
            await until_listening(listener.getsockname()[1])
            assert (await client.get(f"http://{HOST}:{port}/metrics", headers=bearer("admin"))).status_code == 404
            for path in ("/metrics", "/livez", "/readyz"):
                assert (await client.get(f"{admin_url}{path}")).status_code == 200
            for path in ("/answer", "/rerank", "/docs", "/openapi.json"):
                assert (await client.get(f"{admin_url}{path}")).status_code == 404
            app.state.life.is_ending = True
            assert (await client.get(f"{admin_url}/readyz")).status_code == 503
    assert "rankrag" not in str(await refused(listener))


async def refused(listener: socket.socket) -> OSError:
    with pytest.raises((OSError, ValueError)) as caught:
        listener.getsockname()
    return OSError(str(caught.value))


def raise_it(cause: BaseException) -> None:
    raise cause


async def test_a_kept_connection_is_closed_when_it_has_been_idle(port: int) -> None:
    begun_s = time.monotonic()
    assert (await sent(port, GOOD)).startswith(b"HTTP/1.1 200 OK")
    assert 0.9 < time.monotonic() - begun_s < 4


class Connected(asyncio.Protocol):
    """What there is of the connections that a server has accepted."""

    made: ClassVar[list[asyncio.Transport]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(cast(asyncio.Transport, transport))


def test_connections_that_wait_are_all_accepted_at_once_and_send_without_delay() -> None:
    """Else callers wait outside while the loop is busy, and nothing in the service knows of their time."""
    number = 100

    async def accept() -> None:
        Connected.made = []
        listener = bound_socket(HOST, 0, "port")
        async with asyncio.timeout(10):
            server = await asyncio.get_running_loop().create_server(Connected, sock=listener, backlog=2 * number)
            with ExitStack() as waiting:
                for _ in range(number):
                    waiting.enter_context(socket.create_connection(listener.getsockname(), timeout=5))
                rounds = 0
                while len(Connected.made) < number:
                    await asyncio.sleep(0)
                    rounds += 1
                options = [made.get_extra_info("socket") for made in Connected.made]
                delays = {option.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for option in options}
                for made in Connected.made:
                    made.abort()
            server.close()
        assert rounds < 10
        assert delays == {1}

    factory = uvicorn.Config("none", **plain(LIMITS)).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(accept())


def test_an_address_that_cannot_be_had_is_named() -> None:
    with bound_socket(HOST, 0, "port") as taken:
        taken.listen()
        with pytest.raises(ConfigError, match=f"{HOST}:{taken.getsockname()[1]} can't be listened on") as caught:
            bound_socket(HOST, taken.getsockname()[1], "admin.port")
    assert caught.value.field == "admin.port"


# Proxies


@pytest.mark.parametrize(("trusted", "statuses"), [("127.0.0.1", [200, 200]), ("192.0.2.1", [200, 429])])
@pytest.mark.threat("T22")
async def test_another_address_is_believed_from_trusted_proxies_alone(
    fakes: FakeServices, trusted: str, statuses: list[int]
) -> None:
    app = create_app(Settings(rate_limit={"requests": "1/hour"}, limits=LIMITS), fakes.open)
    async with served(app, forwarded_allow_ips=trusted) as port, httpx.AsyncClient() as client:
        found = [
            (
                await client.post(
                    f"http://{HOST}:{port}/rerank", json=RERANK, headers={"X-Forwarded-For": f"198.51.100.{number}"}
                )
            ).status_code
            for number in range(2)
        ]
    assert found == statuses


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def tls_files(authority: trustme.CA, directory: Path) -> TlsSettings:
    made = authority.issue_cert("127.0.0.1")
    chain, key, ca = directory / "cert.pem", directory / "key.pem", directory / "ca.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return TlsSettings(cert_file=chain, key_file=key, client_ca_file=ca)


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.threat("T20")
async def test_the_main_port_speaks_tls_where_there_is_a_certificate(
    authority: trustme.CA, tmp_path: Path, fakes: FakeServices
) -> None:
    tls = tls_files(authority, tmp_path).model_copy(update={"client_ca_file": None})
    async with served(create_app(Settings(), fakes.open), **tls_options(tls)) as port:
        async with httpx.AsyncClient(verify=client_context(authority)) as client:
            response = await client.get(f"https://{HOST}:{port}/livez")
            assert response.status_code == 200
            assert "Strict-Transport-Security" in response.headers
        async with httpx.AsyncClient() as stranger:
            with pytest.raises(httpx.ConnectError):
                await stranger.get(f"https://{HOST}:{port}/livez")
        assert b"200 OK" not in await sent(port, GOOD)


@pytest.mark.threat("T20")
async def test_with_a_client_authority_only_its_clients_connect(
    authority: trustme.CA, tmp_path: Path, fakes: FakeServices
) -> None:
    options = tls_options(tls_files(authority, tmp_path))
    async with served(create_app(Settings(), fakes.open), **options) as port:
        async with httpx.AsyncClient(verify=client_context(authority)) as stranger:
            with pytest.raises(httpx.TransportError):
                await stranger.get(f"https://{HOST}:{port}/livez")
        known = client_context(authority)
        authority.issue_cert("client.example").configure_cert(known)
        async with httpx.AsyncClient(verify=known) as client:
            assert (await client.get(f"https://{HOST}:{port}/livez")).status_code == 200


# The end


@pytest.fixture(autouse=True)
def streams_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `run_server` has it; sse-starlette keeps this for the whole process."""
    monkeypatch.setattr(AppStatus, "enable_automatic_graceful_drain", False)


@asynccontextmanager
async def ending(
    app: FastAPI, life: Life, *, delay_s: float, grace_s: int = 5
) -> AsyncIterator[tuple[int, Callable[[signal.Signals], None], "asyncio.Task[None]"]]:
    """A server that is told to end by the function that comes with its port."""
    listener = bound_socket(HOST, 0, "port")
    config = uvicorn.Config(app, lifespan="on", timeout_graceful_shutdown=grace_s, **plain(LIMITS))
    server = GracefulServer(config, life, delay_s=lambda: delay_s)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until_listening(listener.getsockname()[1])
    yield listener.getsockname()[1], lambda number: signal.raise_signal(number), task
    server.should_exit = True
    await task


@pytest.mark.threat("T24")
async def test_the_end_is_red_then_closed_and_loses_nothing(fakes: FakeServices) -> None:
    life = Life()
    fakes.scorer.delay_s = 1.0
    async with (
        ending(create_app(Settings(), fakes.open, life), life, delay_s=0.5) as (port, end, task),
        httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client,
    ):
        long = asyncio.create_task(client.post("/rerank", json=RERANK))
        await until_running(fakes.scorer)
        end(signal.SIGTERM)
        assert (await client.get("/readyz")).status_code == 503
        late = asyncio.create_task(client.post("/rerank", json=RERANK))
        await task
        assert [(await asked).status_code for asked in (long, late)] == [200, 200]
        with pytest.raises(httpx.ConnectError):
            await client.get("/livez")


async def test_what_takes_longer_than_the_grace_is_told_so(fakes: FakeServices) -> None:
    life = Life()
    fakes.scorer.delay_s = 30
    async with (
        ending(create_app(Settings(), fakes.open, life), life, delay_s=0, grace_s=1) as (port, end, task),
        httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=20) as client,
    ):
        asked = asyncio.create_task(client.post("/rerank", json=RERANK))
        await until_running(fakes.scorer)
        end(signal.SIGTERM)
        response = await asked
        assert (response.status_code, response.json()["error"]["code"]) == (503, "shutting_down")
        await task


@pytest.mark.threat("T24")
async def test_a_stream_in_flight_comes_to_its_end(fakes: FakeServices) -> None:
    life = Life()
    fakes.scorer.delay_s = 1.5
    async with (
        ending(create_app(Settings(), fakes.open, life), life, delay_s=0) as (port, end, task),
        httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as client,
    ):
        asked = asyncio.create_task(client.post("/answer", json={"question": "mont blanc", "stream": True}))
        await until_running(fakes.scorer)
        end(signal.SIGTERM)
        assert "event: final" in (await asked).text
        await task


@pytest.mark.parametrize(("number", "waits"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
async def test_a_person_does_not_wait_for_balancers(fakes: FakeServices, number: signal.Signals, waits: bool) -> None:
    life = Life()
    begun_s = time.monotonic()
    async with ending(create_app(Settings(), fakes.open, life), life, delay_s=1.5) as (_, end, task):
        end(number)
        await task
    assert (time.monotonic() - begun_s > 1.5) == waits
