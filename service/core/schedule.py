"""Which pairs of all requests go to which replica now: pure decisions, carried out by `adapters/dispatcher`.

A pair that several requests want is one entry with several waiters. Every request has an account of the tokens
that were sent for it, and the one that stands lowest goes next: start-time fair queueing (Goyal et al., 1996),
with tags rounded down to a quantum, so that a request's first quantum goes together. Two requests of a class that
both wait get equal shares of the tokens, to within one quantum and one pair. A class goes before the next one.

The tag is passed on as the call's priority: an engine that orders its own queue by it keeps the same fairness for
what it already holds, and a large window costs a newcomer nothing.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from service.core.routing import choose_replica

_CLASS_BITS = 40


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with a passage, as a prompt. Equal keys are the same computation, equal groups the same passage."""

    key: str
    group: str
    num_tokens: int
    prompt: Sequence[int] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one call, and of what one replica may have outstanding. A pair longer than any of them goes alone."""

    max_prompts_per_call: int
    max_tokens_per_call: int
    window_tokens: int
    max_calls: int = 32
    quantum_tokens: int = 1024
    load_factor: float = 1.25


@dataclass(frozen=True, slots=True)
class Call:
    """Pairs for one replica; `priority` is for an engine that orders by it (lower first)."""

    id: int
    replica: str
    pairs: tuple[Pair, ...]
    num_tokens: int
    priority: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Calls to start, requests whose time is over, running calls that nobody waits for any more.

    `wake_at_s` is when to ask again if nothing else happens.
    """

    calls: tuple[Call, ...]
    expired: tuple[int, ...]
    wake_at_s: float | None
    aborted: tuple[int, ...]


@dataclass(slots=True)
class _Request:
    number: int
    priority: int
    deadline_s: float
    start_tag: int
    missing: dict[str, None]
    queue: deque[str]
    sent_tokens: int = 0
    is_in_line: bool = False


@dataclass(slots=True)
class _Entry:
    pair: Pair
    priority: int  # of the request that brought it: what it is counted under while it waits
    waiters: dict[int, None]
    call: int | None = None
    failed_on: str | None = None
    is_alone: bool = False


@dataclass(slots=True)
class _Draft:
    replica: str
    tag: int
    priority: int
    max_tokens: int
    entries: list[_Entry] = field(default_factory=list)
    num_tokens: int = 0


class Scheduler:
    """Holds what waits and what runs. No clock, no IO: the caller tells the time and what has happened."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._replicas: tuple[str, ...] = ()
        self._requests: dict[int, _Request] = {}
        self._entries: dict[str, _Entry] = {}
        self._groups: dict[str, dict[str, None]] = {}  # waiting keys by passage
        self._line: list[tuple[int, int, int]] = []  # heap of (class, tag, request)
        self._deadlines: list[tuple[float, int]] = []
        self._calls: dict[int, Call] = {}
        self._tags: dict[int, tuple[int, int]] = {}  # (class, tag) of each running call
        self._last_tags: Counter[int] = Counter()
        self._numbers = count(1)
        self._waiting: Counter[int] = Counter()  # tokens by class
        self._num_waiting = 0
        self._outstanding: Counter[str] = Counter()
        self._num_calls: Counter[str] = Counter()

    # --- what there is ------------------------------------------------------------------------------------

    @property
    def num_waiting_pairs(self) -> int:
        return self._num_waiting

    @property
    def waiting_tokens(self) -> int:
        return self._waiting.total()

    @property
    def outstanding_tokens(self) -> int:
        return self._outstanding.total()

    def outstanding(self, replica: str) -> int:
        return self._outstanding[replica]

    def load(self) -> Mapping[str, int]:
        """Outstanding tokens by replica."""
        return {name: self._outstanding[name] for name in self._replicas}

    def tokens_ahead(self, priority: int) -> int:
        """Tokens that go before a newcomer of this class, or share with it: all that runs, and what waits."""
        waiting = sum(tokens for class_, tokens in self._waiting.items() if class_ <= priority)
        return waiting + self.outstanding_tokens

    # --- what happens -------------------------------------------------------------------------------------

    def set_replicas(self, names: Collection[str]) -> None:
        """Those that may get work from now on. What runs on others is the caller's to fail."""
        self._replicas = tuple(sorted(names))

    def add(self, request: int, pairs: Sequence[Pair], *, priority: int, deadline_s: float) -> None:
        """A new request; pairs that already wait or run are joined. O(log n) and O(1) a pair."""
        keys = dict.fromkeys(pair.key for pair in pairs)
        added = _Request(request, priority, deadline_s, self._virtual_time(priority), keys, deque(keys))
        self._requests[request] = added
        heappush(self._deadlines, (deadline_s, request))
        for pair in pairs:
            entry = self._entries.get(pair.key)
            if entry is None:
                entry = self._entries[pair.key] = _Entry(pair, priority, {})
                self._wait(entry)
            entry.waiters[request] = None
        self._line_up(added)

    def discard(self, request: int) -> tuple[int, ...]:
        """The caller is gone: what nobody else wants is dropped; returns running calls to be aborted."""
        gone = self._requests.pop(request, None)
        if gone is None:
            return ()
        touched: dict[int, None] = {}
        for key in gone.missing:
            entry = self._entries[key]
            del entry.waiters[request]
            if entry.call is not None:
                touched[entry.call] = None
            elif not entry.waiters:
                self._stop_waiting(entry)
                del self._entries[key]
        unwanted = tuple(call for call in touched if not self._is_wanted(call))
        for call in unwanted:
            for entry in self._end(call):
                del self._entries[entry.pair.key]
        return unwanted

    def schedule(self, now_s: float) -> Plan:
        """Everything that can start now. O(log n) for each pair that starts or expires."""
        expired, aborted = self._expire(now_s)
        calls = tuple(self._start(draft) for draft in self._drafts())
        wake_at_s = self._deadlines[0][0] if self._deadlines else None
        return Plan(calls, expired, wake_at_s, aborted)

    def finish(self, call: int) -> Mapping[str, tuple[int, ...]]:
        """The call brought its scores: who waits for which of its pairs. Each is told once."""
        return {} if call not in self._calls else self._settle(self._end(call))

    def fail(self, call: int, *, is_refusal: bool = False) -> Mapping[str, tuple[int, ...]]:
        """The call brought none: who must be told. The other pairs wait again.

        A pair is tried once more, on another replica. Of a call that was refused for what is in it, each pair is
        tried alone, so that only the bad one's callers are told.
        """
        if call not in self._calls:
            return {}
        replica = self._calls[call].replica
        entries = self._end(call)
        can_split = is_refusal and len(entries) > 1
        can_move = not is_refusal and any(name != replica for name in self._replicas)
        lost = []
        for entry in entries:
            if entry.waiters and (can_split or (can_move and entry.failed_on is None)):
                self._wait_again(entry, failed_on=None if is_refusal else replica, is_alone=is_refusal)
            else:
                lost.append(entry)
        return self._settle(lost)

    # --- waiting ------------------------------------------------------------------------------------------

    def _wait(self, entry: _Entry) -> None:
        self._num_waiting += 1
        self._waiting[entry.priority] += entry.pair.num_tokens
        self._groups.setdefault(entry.pair.group, {})[entry.pair.key] = None

    def _stop_waiting(self, entry: _Entry) -> None:
        self._num_waiting -= 1
        self._waiting[entry.priority] -= entry.pair.num_tokens
        group = self._groups[entry.pair.group]
        del group[entry.pair.key]
        if not group:
            del self._groups[entry.pair.group]

    def _wait_again(self, entry: _Entry, *, failed_on: str | None, is_alone: bool) -> None:
        """At the head of its requests, which get back what they were charged."""
        entry.call, entry.failed_on, entry.is_alone = None, failed_on or entry.failed_on, is_alone
        self._wait(entry)
        self._requests[next(iter(entry.waiters))].sent_tokens -= entry.pair.num_tokens
        for number in entry.waiters:
            request = self._requests[number]
            request.queue.appendleft(entry.pair.key)
            self._line_up(request)

    def _line_up(self, request: _Request) -> None:
        if request.queue and not request.is_in_line:
            request.is_in_line = True
            heappush(self._line, (request.priority, self._tag(request), request.number))

    def _tag(self, request: _Request) -> int:
        """Where the request stands: what was sent for it, in whole quanta, on top of where it began."""
        quantum = self._limits.quantum_tokens
        return request.start_tag + max(request.sent_tokens, 0) // quantum * quantum

    def _virtual_time(self, priority: int) -> int:
        """Where a newcomer begins: with the least that a running call of its class has got."""
        running = [tag for class_, tag in self._tags.values() if class_ == priority]
        return min(running, default=self._last_tags[priority])

    def _expire(self, now_s: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        expired: list[int] = []
        aborted: list[int] = []
        while self._deadlines and (self._deadlines[0][0] <= now_s or self._deadlines[0][1] not in self._requests):
            _, request = heappop(self._deadlines)
            if request in self._requests:
                expired.append(request)
                aborted += self.discard(request)
        return tuple(expired), tuple(aborted)

    # --- starting -----------------------------------------------------------------------------------------

    def _drafts(self) -> Iterator[_Draft]:
        """The calls that can start, in the order of the line; it stops at the first pair that finds no room."""
        is_little = self.waiting_tokens <= min(self._limits.max_tokens_per_call, self._limits.window_tokens)
        idle = {name for name in self._replicas if not self._outstanding[name]}
        open_drafts: dict[str, _Draft] = {}
        done: list[_Draft] = []
        while (request := self._first()) is not None:
            entry = self._entries[request.queue[0]]
            replica = self._replica_for(entry, open_drafts)
            if replica is None:
                break
            draft = open_drafts.get(replica)
            if draft is None or not self._fits(draft, entry):
                max_tokens = self._call_tokens(is_whole=is_little and replica in idle)
                draft = _Draft(replica, self._tag(request), request.priority, max_tokens)
                open_drafts[replica] = draft
                done.append(draft)
                self._num_calls[replica] += 1
            self._take(entry, draft)
            self._take_companions(entry, draft, request.priority)
        return iter(done)

    def _first(self) -> _Request | None:
        """The request that stands lowest, its next pair at the head of its queue."""
        while self._line:
            class_, tag, number = self._line[0]
            request = self._requests.get(number)
            if request is not None:
                while request.queue and not self._is_waiting(request.queue[0]):
                    request.queue.popleft()
                if request.queue and (class_, tag) == (request.priority, self._tag(request)):
                    return request
                request.is_in_line = False
            heappop(self._line)
            if request is not None:
                self._line_up(request)
        return None

    def _is_waiting(self, key: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.call is None

    def _call_tokens(self, *, is_whole: bool) -> int:
        """Two calls to a window, so that a replica has the next one before it is done with this one."""
        limits = self._limits
        most = limits.max_tokens_per_call
        return most if is_whole else min(most, max(limits.window_tokens // 2, 1))

    def _replica_for(self, entry: _Entry, open_drafts: Mapping[str, _Draft]) -> str | None:
        names = [name for name in self._replicas if self._has_room(name, entry, open_drafts.get(name))]
        elsewhere = [name for name in names if name != entry.failed_on]
        if not elsewhere and any(name != entry.failed_on for name in self._replicas):
            return None  # it waits for room on another than the one that failed it
        return choose_replica(
            entry.pair.group, entry.pair.num_tokens, elsewhere or names,
            self.load(), load_factor=self._limits.load_factor, slack_tokens=self._limits.quantum_tokens,
        )  # fmt: skip

    def _has_room(self, replica: str, entry: _Entry, draft: _Draft | None) -> bool:
        outstanding, tokens = self._outstanding[replica], entry.pair.num_tokens
        is_in_window = not outstanding or outstanding + tokens <= self._limits.window_tokens
        has_call = (draft is not None and self._fits(draft, entry)) or self._num_calls[replica] < self._limits.max_calls
        return is_in_window and has_call

    def _fits(self, draft: _Draft, entry: _Entry) -> bool:
        is_shared = not entry.is_alone and not (draft.entries and draft.entries[0].is_alone)
        return (
            is_shared
            and len(draft.entries) < self._limits.max_prompts_per_call
            and draft.num_tokens + entry.pair.num_tokens <= draft.max_tokens
        )

    def _take(self, entry: _Entry, draft: _Draft) -> None:
        self._stop_waiting(entry)
        entry.call = 0  # until its call has a number
        draft.entries.append(entry)
        draft.num_tokens += entry.pair.num_tokens
        self._outstanding[draft.replica] += entry.pair.num_tokens
        payer = min((self._requests[number] for number in entry.waiters), key=lambda r: (r.priority, r.number))
        payer.sent_tokens += entry.pair.num_tokens

    def _take_companions(self, entry: _Entry, draft: _Draft, priority: int) -> None:
        """Other questions about the same passage share its prefix: they come along while there is room."""
        for key in list(self._groups.get(entry.pair.group, ())):
            other = self._entries[key]
            is_welcome = any(self._requests[number].priority == priority for number in other.waiters)
            if is_welcome and other.failed_on is None and self._fits(draft, other):
                if self._outstanding[draft.replica] + other.pair.num_tokens > self._limits.window_tokens:
                    return
                self._take(other, draft)

    def _start(self, draft: _Draft) -> Call:
        number = next(self._numbers)
        for entry in draft.entries:
            entry.call = number
        waiters = {waiter for entry in draft.entries for waiter in entry.waiters}
        call = Call(
            id=number,
            replica=draft.replica,
            pairs=tuple(entry.pair for entry in draft.entries),
            num_tokens=draft.num_tokens,
            priority=(draft.priority << _CLASS_BITS) + min(draft.tag, (1 << _CLASS_BITS) - 1),
            deadline_s=max(self._requests[waiter].deadline_s for waiter in waiters),
        )
        self._calls[number] = call
        self._tags[number] = (draft.priority, draft.tag)
        self._last_tags[draft.priority] = max(self._last_tags[draft.priority], draft.tag)
        return call

    # --- ending -------------------------------------------------------------------------------------------

    def _is_wanted(self, call: int) -> bool:
        return any(self._entries[pair.key].waiters for pair in self._calls[call].pairs)

    def _end(self, number: int) -> list[_Entry]:
        """Free the call's place; its entries are neither waiting nor running now."""
        call = self._calls.pop(number)
        del self._tags[number]
        self._outstanding[call.replica] -= call.num_tokens
        self._num_calls[call.replica] -= 1
        return [self._entries[pair.key] for pair in call.pairs]

    def _settle(self, entries: Sequence[_Entry]) -> Mapping[str, tuple[int, ...]]:
        """Forget the entries; who waited for which."""
        told: dict[str, tuple[int, ...]] = {}
        for entry in entries:
            key = entry.pair.key
            del self._entries[key]
            if entry.waiters:
                told[key] = tuple(entry.waiters)
            for number in entry.waiters:
                request = self._requests[number]
                del request.missing[key]
                if not request.missing:
                    del self._requests[number]
        return told
