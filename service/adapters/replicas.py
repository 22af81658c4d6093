"""Several vLLM servers with one checkpoint: which there are, and which of them may get work now.

They are a list of URLs, or all addresses of a host name, followed as they change. Each has its own connections
and its own watch, so that a dead or hung one costs the others nothing.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
import structlog

from service.adapters.engine import Engine, GoldenPair
from service.adapters.tokenizer import PromptTokenizer
from service.adapters.vllm_client import VllmClient, open_http
from service.core.scoring import UNCALIBRATED, Calibration
from service.errors import CheckpointError, EngineError
from service.settings import VllmSettings

log = structlog.get_logger(__name__)

# Lower is more urgent. Scoring calls have 0 and more: an answer is begun before more pairs are scored, and
# whether an engine works is asked before all work.
GENERATION_PRIORITY: Final = -1
CHECK_PRIORITY: Final = -2

MAX_REASONS = 3

Resolve = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Replica:
    """One vLLM server; `name` is its base URL, with an address for a host where hosts are resolved."""

    name: str
    engine: Engine


async def resolve_host(host: str) -> list[str]:
    """The host's addresses, in order.

    One family only: a dual-stack Service lists every pod twice.

    Raises:
        OSError: it has none, or the resolver failed.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    family = min(family for family, *_ in found)  # IPv4 where there is one
    return sorted({str(address[0]) for its_family, _, _, _, address in found if its_family == family})


class Replicas:
    """All replicas that are known. `observe` is told how many are ready and how many known.

    `aclose` it last. Nothing is asked of any replica before `check`.
    """

    def __init__(
        self, settings: VllmSettings, tokenizer: PromptTokenizer, golden: Sequence[GoldenPair], *,
        calibration: Calibration = UNCALIBRATED, resolve: Resolve = resolve_host,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[int, int], None] = lambda *_: None,
        open_client: Callable[[VllmSettings, str], VllmClient] = lambda *at: VllmClient(open_http(*at)),
    ) -> None:  # fmt: skip
        self.tokenizer = tokenizer
        self.labels = tokenizer.labels()
        self._settings = settings
        self._golden = tuple(golden)
        self._calibration = calibration
        self._resolve = resolve
        self._clock = clock
        self._observe = observe
        self._open_client = open_client
        self._known: dict[str, Replica] = {}
        self._ready: dict[str, Engine] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._is_any_verified = False
        self._names: dict[str, list[str]] = {url: [] for url in settings.urls}  # by URL, as last resolved
        self._unresolved: dict[str, str] = {}  # reasons by URL
        if not settings.resolve:
            self._names = {url: [url.rstrip("/")] for url in settings.urls}
            self._know()

    @property
    def generation_priority(self) -> int | None:
        """What to send with a call for an answer; None where vLLM knows no priorities."""
        return GENERATION_PRIORITY if self._settings.priority_scheduling else None

    @property
    def num_known(self) -> int:
        return len(self._known)

    def ready(self) -> Mapping[str, Engine]:
        """Those that may get work, by name, in a stable order. It isn't changed later: there is a new one then."""
        return self._ready

    def follow(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever another set is ready than before, also from within `suspect`."""
        self._callbacks.append(callback)

    def require(self) -> None:
        """Raises EngineError with the reasons if none is ready."""
        if not self._ready:
            raise EngineError(self._why_none())

    def max_model_len(self) -> int:
        """Tokens of prompt and answer together that every ready replica takes. For any thread.

        Raises:
            EngineError: none is ready.
        """
        states = [engine.state for engine in self._ready.values()]
        lengths = [state.model.max_model_len for state in states if state.model is not None]
        if not lengths:
            raise EngineError(self._why_none())
        return min(lengths)

    def suspect(self, name: str, reason: str = "a call to it failed") -> None:
        """A call failed by the fault of this replica: take it out until a trial succeeds, which is made at once.

        Not at once where it failed soon after its last trial and others can do its work: being quick to fail it
        would draw more and more calls.
        """
        if name in self._ready:
            engine = self._ready[name]
            engine.take_out(reason, check_now=len(self._ready) == 1 or not engine.has_just_returned())

    def reasons(self) -> dict[str, str]:
        """Why those that aren't ready are not, by name, or by URL where a host can't be resolved."""
        down = {name: replica.engine.state.reason for name, replica in self._known.items() if name not in self._ready}
        return {**self._unresolved, **down}

    def summary(self) -> str:
        """What is served where and what isn't, for people who look after it."""
        served = ", ".join(f"{engine.model().id} at {name}" for name, engine in self._ready.items())
        problems = [f"{name}: {reason}" for name, reason in self.reasons().items()]
        if not problems:
            return f"serving {served}"
        count = f"{len(self._ready)} of {len(self._known)} ready"
        return "; ".join([f"{count}: serving {served}" if served else count, *problems])

    async def check(self) -> None:
        """Check all for the first time, at once, wherever there are any.

        Raises:
            CheckpointError: those that answer have a checkpoint that is wrong. One that is wrong beside a right
                one is only kept out.
        """
        if self._settings.resolve:
            await self._look_up()
        rejections: list[CheckpointError] = []
        async with asyncio.TaskGroup() as group:
            for replica in self._known.values():
                group.create_task(_check(replica, rejections.append))
        if rejections and not self._ready:
            raise rejections[0]

    async def run(self) -> None:
        """Watch all for ever, and which there are.

        Raises:
            CheckpointError: the first replica that answered at all has a wrong checkpoint.
        """
        try:
            async with asyncio.TaskGroup() as group:
                watches = {replica: group.create_task(self._watch(replica)) for replica in self._known.values()}
                if self._settings.resolve:
                    await self._follow_addresses(group, watches)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the others are this one's cancelled sisters

    async def aclose(self) -> None:
        """Close all connections; whoever still uses one gets an EngineError."""
        for replica in self._known.values():
            await replica.engine.client.aclose()

    async def _watch(self, replica: Replica) -> None:
        while True:
            await replica.engine.due()
            rejections: list[CheckpointError] = []
            await _check(replica, rejections.append)
            if rejections and not self._is_any_verified:
                raise rejections[0]

    async def _follow_addresses(self, group: asyncio.TaskGroup, watches: "dict[Replica, asyncio.Task[None]]") -> None:
        while True:
            await asyncio.sleep(self._settings.resolve_interval_s)
            await self._look_up()
            known = set(self._known.values())
            for replica in watches.keys() - known:
                watches.pop(replica).cancel()
                group.create_task(replica.engine.client.aclose(wait=True))  # what it has begun it may still finish
            for replica in known - watches.keys():
                watches[replica] = group.create_task(self._watch(replica))

    async def _look_up(self) -> None:
        """Ask for the addresses of all hosts, and know those that there are now."""
        async with asyncio.TaskGroup() as group:
            for url in self._settings.urls:
                group.create_task(self._look_up_one(url))
        self._know()

    async def _look_up_one(self, url: str) -> None:
        """Without an answer the last one holds: a resolver that fails says nothing about the engines."""
        host = httpx.URL(url).host
        try:
            addresses = await self._resolve(host)
        except (OSError, UnicodeError) as exc:
            self._fail_to_resolve(url, f"{host} can't be resolved: {exc}")
            return
        if not addresses:
            self._fail_to_resolve(url, f"{host} has no address")
            return
        self._unresolved.pop(url, None)
        self._names[url] = [str(httpx.URL(url).copy_with(host=address)).rstrip("/") for address in addresses]

    def _fail_to_resolve(self, url: str, reason: str) -> None:
        if url not in self._unresolved:
            log.warning("host_not_resolved", url=url, reason=reason)
        self._unresolved[url] = reason

    def _know(self) -> None:
        """Know exactly the replicas that are named now, each once, and those known before as they are."""
        before = self._known
        names = dict.fromkeys(name for url in self._settings.urls for name in self._names[url])
        self._known = {name: before[name] if name in before else self._open(name) for name in names}
        for name in before.keys() - names:
            log.info("replica_gone", url=name)
            before[name].engine.take_out("its address is no longer one of the host's", check_now=False)
        self._update()

    def _open(self, name: str) -> Replica:
        engine = Engine(
            self._open_client(self._settings, name), self.tokenizer, self._golden,
            interval_s=self._settings.health_interval_s, timeout_s=self._settings.health_timeout_s,
            clock=self._clock, observe=lambda _: self._update(),
            priority=CHECK_PRIORITY if self._settings.priority_scheduling else None, calibration=self._calibration,
        )  # fmt: skip
        return Replica(name, engine)

    def _update(self) -> None:
        ready = {name: replica.engine for name, replica in self._known.items() if replica.engine.state.is_ready}
        before, self._ready = self._ready, ready
        self._is_any_verified = self._is_any_verified or bool(ready)
        self._observe(len(ready), len(self._known))
        if list(before.items()) != list(ready.items()):
            for callback in self._callbacks:
                callback()

    def _why_none(self) -> str:
        """Every reason once, without names: this goes to whoever asked a question."""
        reasons = list(dict.fromkeys(self.reasons().values())) or ["no vLLM is known yet"]
        left_out = f" and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
        text = "; ".join(reasons[:MAX_REASONS]) + left_out
        return text if len(self._known) <= 1 else f"none of {len(self._known)} vLLM servers is ready: {text}"


async def _check(replica: Replica, reject: Callable[[CheckpointError], None]) -> None:
    """Check one; a checkpoint that is wrong is told to `reject`, and logged when that is new."""
    before = replica.engine.state.reason
    try:
        await replica.engine.check()
    except CheckpointError as exc:
        if exc.message != before:
            log.error("checkpoint_rejected", url=replica.name, reason=exc.message)
        reject(exc)
