"""The parts that are broken: vLLM and Redis behind proxies, an index of their own, and the service."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from loadtest.drive import open_client
from service.local_stack import HOST, LOCAL_ENVIRONMENT, SERVICE_ENVIRONMENT, free_port
from tests.chaos.asks import Ask
from tests.chaos.load import send
from tests.chaos.proxy import Proxy
from tests.chaos.verdicts import Outcome, Reply, judge
from tests.integration.conftest import ROOT, Vllm

POLL_S = 0.1
# No keys and one port; SIGTERM takes requests for a while, as it does by default.
OPEN_TO_ALL = {"RANKRAG_AUTH__MODE": "off", "RANKRAG_ADMIN__PORT": "0", "RANKRAG_SHUTDOWN__DELAY_S": "2"}
START_WITHIN_S, STOP_WITHIN_S = 60.0, 40.0


@dataclass(slots=True)
class Epoch:
    """One life of the service: the index that it opened, when it first answered, and when and how it was ended."""

    index_version: str
    begun_s: float
    answers_s: float = float("inf")
    ended_s: float = float("inf")
    is_killed: bool = False


@dataclass(slots=True)
class Stack:
    """Everything, and what was done to it. `epochs` are the service's lives, in order."""

    vllm: Vllm
    vllm_proxy: Proxy
    redis_proxy: Proxy
    redis_port: int
    directory: Path
    settings: Mapping[str, str]
    port: int
    probe: Ask
    epochs: list[Epoch] = field(default_factory=list)
    _service: Process | None = None
    _redis: Process | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def metrics_url(self) -> str:
        return self.url

    @property
    def is_service_running(self) -> bool:
        return self._service is not None and self._service.returncode is None

    @property
    def index(self) -> Path:
        return self.directory / "index"

    # --- the service ---

    async def start_service(self, *, workers: int = 1) -> float:
        """Start it; the moment at which it first answered, or ended instead. See `wait_until_well`."""
        version = str(json.loads((self.index / "manifest.json").read_text())["version"])
        self.epochs.append(Epoch(version, time.monotonic()))
        self._service = await self._spawn(self._command(workers), self.settings, "service.log")
        async with asyncio.timeout(START_WITHIN_S), open_client(self.url, max_connections=1, timeout_s=5.0) as http:
            while self.is_service_running and not await self._is_answering(http):  # noqa: ASYNC110 (another process)
                await asyncio.sleep(POLL_S)
        return time.monotonic()

    async def _is_answering(self, http: httpx.AsyncClient) -> bool:
        try:
            await http.get("/livez")
        except httpx.HTTPError:
            return False
        self.epochs[-1].answers_s = time.monotonic()
        return True

    def _command(self, workers: int) -> list[str]:
        more = [] if workers == 1 else ["--workers", str(workers)]
        return [sys.executable, "-m", "service", "serve", "--host", HOST, "--port", str(self.port), *more]

    async def terminate_service(self) -> None:
        """SIGTERM, and wait until it has gone."""
        assert self._service is not None
        self.epochs[-1].ended_s = time.monotonic()
        self._service.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self._service.wait(), STOP_WITHIN_S)

    async def kill_service(self) -> None:
        """SIGKILL to it and its workers."""
        assert self._service is not None
        self.epochs[-1].ended_s = time.monotonic()
        self.epochs[-1].is_killed = True
        os.killpg(self._service.pid, signal.SIGKILL)
        await self._service.wait()

    async def start_beside(self, index: Path) -> tuple[int, str]:
        """Another service over `index`, which is expected to refuse: its exit code and what it said."""
        settings = {**self.settings, "RANKRAG_INDEX__PATH": str(index)}
        command = [sys.executable, "-m", "service", "serve", "--host", HOST, "--port", str(free_port())]
        process = await self._spawn(command, settings, "beside.log")
        try:
            code = await asyncio.wait_for(process.wait(), START_WITHIN_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        return code, (self.directory / "beside.log").read_text()

    def may_be_lost(self, reply: Reply) -> bool:
        """Whether the service was not there for a request, or was killed under it.

        One that was sent before SIGTERM has to be answered.
        """
        return any(
            reply.sent_s < after.answers_s
            and reply.done_s >= before.ended_s
            and (before.is_killed or reply.sent_s >= before.ended_s)
            for before, after in pairwise(self.epochs)
        )

    def index_version_at(self, moment_s: float) -> str:
        """Of the service's life that the moment falls into."""
        return [epoch.index_version for epoch in self.epochs if epoch.begun_s <= moment_s][-1]

    async def is_well(self, http: httpx.AsyncClient) -> bool:
        """Everything ready, and a question that nobody has the answer to is answered in full."""
        try:
            ready = await http.get("/readyz")
        except httpx.HTTPError:
            return False
        if ready.status_code != 200 or not all(one["ok"] for one in ready.json()["dependencies"].values()):
            return False
        reply = await send(http, self.probe, time.monotonic())
        return judge(self.probe, reply).outcome is Outcome.OK

    async def wait_until_well(self, since_s: float, *, within_s: float) -> float:
        """Seconds from `since_s` until all is well.

        Raises:
            TimeoutError: it isn't in time.
        """
        async with asyncio.timeout(within_s), open_client(self.url, max_connections=1, timeout_s=5.0) as http:
            while not await self.is_well(http):  # noqa: ASYNC110 (another process sets no event)
                await asyncio.sleep(POLL_S)
        return time.monotonic() - since_s

    # --- Redis ---

    async def start_redis(self) -> float:
        command = ["redis-server", "--port", str(self.redis_port), "--bind", HOST, "--save", "", "--appendonly", "no"]
        self._redis = await self._spawn(command, {}, "redis.log")
        while not await self._is_redis_up():  # noqa: ASYNC110 (another process sets no event)
            await asyncio.sleep(POLL_S)
        return time.monotonic()

    async def _is_redis_up(self) -> bool:
        try:
            await self.configure_redis(maxmemory="0")
        except OSError:
            return False
        return True

    async def kill_redis(self) -> None:
        assert self._redis is not None
        self._redis.kill()
        await self._redis.wait()

    async def configure_redis(self, **values: str) -> None:
        """CONFIG SET. Raises OSError where nobody listens."""
        async with Redis(host=HOST, port=self.redis_port) as client:
            try:
                for name, value in values.items():
                    await client.config_set(name.replace("_", "-"), value)
            except RedisConnectionError as exc:
                raise OSError(str(exc)) from exc

    # --- processes ---

    async def _spawn(self, command: list[str], environment: Mapping[str, str], log: str) -> Process:
        with (self.directory / log).open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command, env={**os.environ, **environment}, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    async def close(self) -> None:
        for process in filter(None, (self._service, self._redis)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@contextlib.asynccontextmanager
async def open_stack(vllm: Vllm, index: Path, checkpoint: Path, directory: Path, probe: Ask) -> AsyncIterator[Stack]:
    """All of it running and well, with a copy of `index`; `directory` takes it and the logs."""
    shutil.copytree(index, directory / "index")
    redis_port = free_port()
    async with Proxy(vllm.port) as vllm_proxy, Proxy(redis_port) as redis_proxy:
        settings = {
            **LOCAL_ENVIRONMENT,
            **SERVICE_ENVIRONMENT,
            **OPEN_TO_ALL,
            "RANKRAG_CACHE__MAX_ENTRIES": "300",  # of the 400 that the pool makes: Redis is asked, too
            "RANKRAG_CHECKPOINT": str(checkpoint),
            "RANKRAG_VLLM__URL": f"http://{HOST}:{vllm_proxy.port}",
            "RANKRAG_REDIS_URL": f"redis://{HOST}:{redis_proxy.port}/0",
            "RANKRAG_INDEX__PATH": str(directory / "index"),
        }
        stack = Stack(vllm, vllm_proxy, redis_proxy, redis_port, directory, settings, free_port(), probe)
        try:
            await stack.start_redis()
            await stack.wait_until_well(await stack.start_service(), within_s=START_WITHIN_S)
            yield stack
        finally:
            await stack.close()
