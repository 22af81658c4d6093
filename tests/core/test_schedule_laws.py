"""The laws of the scheduler, held in random histories: nothing lost, doubled, late, over a limit, or unfair."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.core.schedule import Call, Limits, Pair, Scheduler

REPLICAS = ("a", "b", "c")
CLASSES = (0, 1, 2)
NUM_KEYS = 60


@dataclass
class Owed:
    """What one request was promised and has not been told yet."""

    deadline_s: float
    priority: int
    keys: set[str]


@dataclass
class World:
    """A scheduler, the engines that work for it, and what everybody knows: every step checks the laws."""

    limits: Limits
    scheduler: Scheduler = field(init=False)
    now_s: float = 0.0
    next_request: int = 1
    replicas: tuple[str, ...] = ("a", "b")
    running: dict[int, Call] = field(default_factory=dict)
    owed: dict[int, Owed] = field(default_factory=dict)
    failed_on: dict[str, str] = field(default_factory=dict)
    num_failures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits)
        self.scheduler.set_replicas(self.replicas)

    def pair(self, number: int) -> Pair:
        oversized = self.limits.window_tokens + 1 if number % 29 == 28 else 0
        return Pair(f"k{number}", f"g{number % 7}", oversized + 5 + 13 * number % 90)

    def add(self, numbers: list[int], priority: int, within_s: float) -> None:
        pairs = [self.pair(number) for number in dict.fromkeys(numbers)]
        self.scheduler.add(self.next_request, pairs, priority=priority, deadline_s=self.now_s + within_s)
        self.owed[self.next_request] = Owed(self.now_s + within_s, priority, {pair.key for pair in pairs})
        self.next_request += 1

    def add_more(self, request: int, numbers: list[int]) -> None:
        """What a request already waits for is not asked again; what it was told may be."""
        owed = self.owed[request]
        pairs = [self.pair(number) for number in numbers]
        known = self.wanted() | self.running_keys()
        num_joined = len({pair.key for pair in pairs} & known - owed.keys)
        more = self.scheduler.add(request, pairs, priority=owed.priority, deadline_s=owed.deadline_s)
        assert more == num_joined
        owed.keys |= {pair.key for pair in pairs}

    def discard(self, request: int) -> None:
        self.owed.pop(request, None)
        self.abort(self.scheduler.discard(request))

    def abort(self, calls: tuple[int, ...]) -> None:
        """Only what nobody wants may be aborted. A pair that is dropped begins anew the next time."""
        wanted = self.wanted()
        for id_ in calls:
            call = self.running.pop(id_)
            assert not wanted & {pair.key for pair in call.pairs}
        for key in self.failed_on.keys() - wanted - self.running_keys():
            del self.failed_on[key], self.num_failures[key]

    def wanted(self) -> set[str]:
        return {key for owed in self.owed.values() for key in owed.keys}

    def schedule(self) -> None:
        plan = self.scheduler.schedule(self.now_s)
        for request in plan.expired:
            assert self.owed.pop(request).deadline_s <= self.now_s
        assert all(owed.deadline_s > self.now_s for owed in self.owed.values())  # all the others have time left
        self.abort(plan.aborted)
        for call in plan.calls:
            self.start(call)
        if self.owed:
            assert plan.wake_at_s is not None
            assert plan.wake_at_s <= min(owed.deadline_s for owed in self.owed.values())
        self.check_work_is_conserved()

    def start(self, call: Call) -> None:
        keys = [pair.key for pair in call.pairs]
        wanted = self.wanted()
        assert call.id not in self.running
        assert call.replica in self.replicas
        assert len(set(keys)) == len(keys) >= 1
        assert not set(keys) & self.running_keys()  # no pair twice
        assert set(keys) <= wanted  # none that nobody waits for
        assert call.num_tokens == sum(pair.num_tokens for pair in call.pairs)
        assert len(keys) <= self.limits.max_prompts_per_call
        assert call.num_tokens <= self.limits.max_tokens_per_call or len(keys) == 1
        assert 0 <= call.priority < 2**63
        assert {self.best_class(key) for key in keys} == {call.priority >> 40}  # nobody rides in a better class
        assert call.deadline_s == max(owed.deadline_s for owed in self.owed.values() if owed.keys & set(keys))
        others = [name for name in self.replicas if name != call.replica]
        for key in keys:
            assert self.failed_on.get(key) != call.replica or not others
        self.running[call.id] = call

    def running_keys(self) -> set[str]:
        return {pair.key for call in self.running.values() for pair in call.pairs}

    def finish(self, id_: int) -> None:
        call = self.running.pop(id_)
        self.deliver(call, self.scheduler.finish(id_), every=True)

    def deliver(self, call: Call, told: object, *, every: bool) -> None:
        """Each pair goes to everybody who is owed it, and to nobody else."""
        assert isinstance(told, dict)
        for pair in call.pairs:
            waiting = {request for request, owed in self.owed.items() if pair.key in owed.keys}
            if pair.key in told or every:
                assert set(told.get(pair.key, ())) == waiting
                assert len(told.get(pair.key, ())) == len(waiting)
                for request in waiting:
                    self.owed[request].keys.discard(pair.key)
                self.failed_on.pop(pair.key, None)
                self.num_failures.pop(pair.key, None)
        assert set(told) <= {pair.key for pair in call.pairs}
        self.owed = {request: owed for request, owed in self.owed.items() if owed.keys}

    def fail(self, id_: int, *, is_refusal: bool) -> None:
        call = self.running.pop(id_)
        told = self.scheduler.fail(id_, is_refusal=is_refusal)
        wanted = self.wanted()
        can_move = any(name != call.replica for name in self.replicas)
        for pair in call.pairs:
            if pair.key not in wanted:
                assert pair.key not in told
                self.failed_on.pop(pair.key, None)
                self.num_failures.pop(pair.key, None)
                continue
            is_retried = pair.key not in told
            if is_refusal:
                assert is_retried == (len(call.pairs) > 1)
            else:
                assert is_retried == (can_move and not self.num_failures[pair.key])
            if is_retried and not is_refusal:
                self.failed_on[pair.key] = call.replica
                self.num_failures[pair.key] += 1
        self.deliver(call, told, every=False)

    def set_replicas(self, names: tuple[str, ...]) -> None:
        """Those that go are failed by whoever saw them go."""
        self.replicas = names
        self.scheduler.set_replicas(names)
        for call in [call for call in self.running.values() if call.replica not in names]:
            self.fail(call.id, is_refusal=False)

    def check_gauges(self) -> None:
        outstanding = Counter[str]()
        for call in self.running.values():
            outstanding[call.replica] += call.num_tokens
        for name in REPLICAS:
            num_tokens = self.scheduler.outstanding(name)
            assert num_tokens == outstanding[name]
            calls = [call for call in self.running.values() if call.replica == name]
            assert len(calls) <= self.limits.max_calls
            assert num_tokens <= self.limits.window_tokens or sum(len(call.pairs) for call in calls) == 1
        waiting = self.wanted() - self.running_keys()
        numbers = [int(key.removeprefix("k")) for key in waiting]
        assert self.scheduler.num_waiting_pairs == len(waiting)
        assert self.scheduler.waiting_tokens == sum(self.pair(number).num_tokens for number in numbers)
        assert self.scheduler.outstanding_tokens == sum(outstanding.values())
        for priority in CLASSES:
            sooner = [number for number in numbers if self.best_class(f"k{number}") <= priority]
            num_tokens = sum(self.pair(number).num_tokens for number in sooner)
            assert self.scheduler.tokens_ahead(priority, 10**9) == num_tokens + self.scheduler.outstanding_tokens

    def check_work_is_conserved(self) -> None:
        """No replica idles while a pair waits that it may take."""
        waiting = self.wanted() - self.running_keys()
        for name in self.replicas:
            if not self.scheduler.outstanding(name):
                assert not [key for key in waiting if self.failed_on.get(key) != name]

    def best_class(self, key: str) -> int:
        return min(owed.priority for owed in self.owed.values() if key in owed.keys)

    def drain(self) -> None:
        """Let everything end well: then nothing is left."""
        if not self.replicas:
            self.set_replicas(("a",))
        for _ in range(1000):
            self.schedule()
            if not self.running:
                break
            self.finish(min(self.running))
        assert not self.owed
        assert (self.scheduler.num_waiting_pairs, self.scheduler.outstanding_tokens) == (0, 0)
        assert self.scheduler.schedule(self.now_s + 1e9).calls == ()


def random_limits(rng: random.Random) -> Limits:
    return Limits(
        max_prompts_per_call=rng.randint(1, 8),
        max_tokens_per_call=rng.randint(50, 400),
        window_tokens=rng.randint(60, 800),
        max_calls=rng.randint(1, 5),
        quantum_tokens=rng.choice([1, 100, 1000]),
    )


@pytest.mark.parametrize("seed", range(300))
def test_laws_hold_in_a_random_history(seed: int) -> None:
    rng = random.Random(seed)
    world = World(random_limits(rng))
    for _ in range(120):
        step(world, rng)
        world.check_gauges()
    world.drain()
    world.check_gauges()


def step(world: World, rng: random.Random) -> None:
    match rng.randrange(13):
        case 0 | 1 | 2:
            numbers = rng.sample(range(NUM_KEYS), rng.randint(1, rng.choice([3, 10, 40])))
            world.add(numbers, rng.choice(CLASSES), rng.choice([1.0, 10.0, 100.0]))
        case 3 if world.owed:
            world.discard(rng.choice(sorted(world.owed)))
        case 4:
            world.now_s += rng.choice([0.0, 0.5, 2.0])
        case 5 if world.running:
            world.fail(rng.choice(sorted(world.running)), is_refusal=rng.random() < 0.4)
        case 6 if rng.random() < 0.3:
            world.set_replicas(tuple(sorted(rng.sample(REPLICAS, rng.randint(0, 3)))))
        case 7 | 8 | 9 if world.running:
            world.finish(rng.choice(sorted(world.running)))
        case 10 if world.owed:
            world.add_more(rng.choice(sorted(world.owed)), rng.choices(range(NUM_KEYS), k=rng.randint(1, 20)))
        case _:
            world.schedule()


class Histories(RuleBasedStateMachine):
    """The same laws where hypothesis chooses the steps."""

    @initialize(
        limits=st.builds(
            Limits, st.integers(1, 8), st.integers(20, 400), st.integers(20, 800), st.integers(1, 5),
            st.integers(1, 1000),
        )
    )  # fmt: skip
    def begin(self, limits: Limits) -> None:
        self.world = World(limits)

    @rule(numbers=st.lists(st.integers(0, NUM_KEYS - 1), min_size=1, max_size=12), priority=st.sampled_from(CLASSES),
          within_s=st.floats(0.1, 50))  # fmt: skip
    def add(self, numbers: list[int], priority: int, within_s: float) -> None:
        self.world.add(numbers, priority, within_s)

    @precondition(lambda self: self.world.owed)
    @rule(data=st.data(), numbers=st.lists(st.integers(0, NUM_KEYS - 1), max_size=12))
    def add_more(self, data: st.DataObject, numbers: list[int]) -> None:
        self.world.add_more(data.draw(st.sampled_from(sorted(self.world.owed))), numbers)

    @precondition(lambda self: self.world.owed)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        self.world.discard(data.draw(st.sampled_from(sorted(self.world.owed))))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.world.now_s += seconds

    @rule()
    def schedule(self) -> None:
        self.world.schedule()

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.world.finish(data.draw(st.sampled_from(sorted(self.world.running))))

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), is_refusal=st.booleans())
    def fail(self, data: st.DataObject, is_refusal: bool) -> None:
        self.world.fail(data.draw(st.sampled_from(sorted(self.world.running))), is_refusal=is_refusal)

    @rule(names=st.sets(st.sampled_from(REPLICAS)))
    def change_replicas(self, names: set[str]) -> None:
        self.world.set_replicas(tuple(sorted(names)))

    @invariant()
    def gauges_are_right(self) -> None:
        if hasattr(self, "world"):
            self.world.check_gauges()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
