"""One measurement: who is measured, over which parts, how much of it."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest.drive import Call, closed_loop
from loadtest.measures import Measurement
from loadtest.stack import RunningService
from loadtest.traffic import Request, Traffic, rotated, with_at_most
from loadtest.wire import VllmAdmin, Wire, rerank_call


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `raw_grid` is (prompts in a list, lists in flight); `client_counts` are ours."""

    rounds: int = 5
    num_pairs: int = 1280
    num_documents: int = 20
    raw_grid: tuple[tuple[int, int], ...] = ((16, 8), (20, 16), (32, 2), (32, 4), (64, 2), (128, 2))
    single_connections: tuple[int, ...] = (32, 200)
    client_counts: tuple[int, ...] = (1, 4, 16, 64)
    warm_pairs: int = 128
    head_share: float = 0.9
    num_repeated_requests: int = 32
    repeats: int = 20
    num_big: int = 1000
    num_small: int = 5
    small_share: float = 0.15
    loads: tuple[float, ...] = (0.5, 0.8, 1.0, 3.0)
    overload_s: float = 60.0
    settle_s: float = 10.0
    num_latencies: int = 120
    num_answers: int = 40
    seed: int = 1

    @property
    def num_clients(self) -> int:
        """Clients of a measurement whose subject is not their number: as many of 16 as the pairs keep busy."""
        return min(16, self.num_pairs // self.num_documents)


FULL = Plan()
SMOKE = Plan(
    rounds=1, num_pairs=60, raw_grid=((20, 2),), single_connections=(8,), client_counts=(1, 3), warm_pairs=20,
    head_share=0.03, num_repeated_requests=2, repeats=3, num_big=60, loads=(0.5, 3.0), overload_s=4.0, settle_s=1.0,
    num_latencies=4, num_answers=3,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contender:
    """Makes calls of requests and sends so many at once; `is_direct` goes to vLLM, not to the service."""

    name: str
    concurrency: int
    is_direct: bool
    calls: Callable[[Sequence[Request]], list[Call]]


@dataclass(frozen=True, slots=True)
class Lab:
    """The running parts, the traffic, and what makes measurements of them."""

    vllm_url: str
    admin: VllmAdmin
    service: RunningService
    wire: Wire
    traffic: Traffic
    plan: Plan
    rng: random.Random
    say: Callable[[str], None]
    timeout_s: float = 300.0

    def url(self, contender: Contender) -> str:
        return self.vllm_url if contender.is_direct else self.service.url

    def lists(self, size: int, concurrency: int) -> Contender:
        return Contender(
            f"list {size} × {concurrency}", concurrency, True, lambda requests: self.wire.list_calls(requests, size)
        )

    def texts(self) -> Contender:
        return Contender("list of texts", 1, True, self.wire.text_calls)

    def singles(self, connections: int) -> Contender:
        return Contender(
            f"single × {connections}", connections, True, lambda requests: self.wire.list_calls(requests, 1)
        )

    def generative(self) -> Contender:
        """Once per request, as many requests at once as ours has clients."""
        return Contender("generative_scoring", self.plan.num_clients, True, self.wire.generative_calls)

    def ours(self, clients: int, *, use_cache: bool) -> Contender:
        """/rerank with `num_documents` each, or fewer where the pairs would not keep all clients busy."""
        num_documents = min(self.plan.num_documents, max(self.plan.num_pairs // clients, 1))

        def calls(requests: Sequence[Request]) -> list[Call]:
            return [rerank_call(request, use_cache=use_cache) for request in with_at_most(requests, num_documents)]

        return Contender(f"ours {clients} × {num_documents}", clients, False, calls)

    def unique(self, num_pairs: int | None = None) -> list[Request]:
        """Requests never asked before."""
        num_requests = -(-(num_pairs or self.plan.num_pairs) // self.plan.num_documents)
        return self.traffic.unique(num_requests, self.plan.num_documents)

    async def measure(
        self, contender: Contender, requests: Sequence[Request], *, number: int = 0, name: str = "", reset: bool = True
    ) -> Measurement:
        """Tokenised and laid out beforehand; then as fast as answers come."""
        calls = contender.calls(requests)
        if reset:
            await self.admin.reset_prefix_cache()
        before = await self.admin.prefix_counters()
        drive = await closed_loop(
            self.url(contender), calls, concurrency=contender.concurrency, timeout_s=self.timeout_s
        )
        hit_rate = (await self.admin.prefix_counters()).hit_rate_since(before)
        found = Measurement(
            name or contender.name, number, drive.num_pairs, drive.num_failed, drive.seconds, hit_rate
        )  # fmt: skip
        failed = f", {found.num_failed} pairs failed" if found.num_failed else ""
        self.say(f"round {number + 1}  {found.contender}: {found.rate:.1f} pairs/s{failed}")
        return found

    async def warm_up(self) -> None:
        """Both paths once, so that nobody pays for the first call."""
        for contender in (self.lists(self.plan.num_documents, 2), self.ours(2, use_cache=False)):
            await self.measure(contender, self.unique(self.plan.warm_pairs), name=f"warm-up, {contender.name}")

    async def capacity(self) -> float:
        """Pairs a second of the service at its best: what loads are given in."""
        contender = self.ours(self.plan.num_clients, use_cache=False)
        return (await self.measure(contender, self.unique(), name="capacity")).rate

    async def rounds(self, contenders: Sequence[Contender], requests: Callable[[], list[Request]]) -> list[Measurement]:
        """The same requests for all contenders of a round, each with an empty prefix cache; rotated by round."""
        found: list[Measurement] = []
        for number in range(self.plan.rounds):
            asked = requests()
            found += [await self.measure(contender, asked, number=number) for contender in rotated(contenders, number)]
        return found

    async def settle(self) -> None:
        """Let vLLM finish what nobody waits for any more."""
        await asyncio.sleep(self.plan.settle_s)
        await self.admin.reset_prefix_cache()
