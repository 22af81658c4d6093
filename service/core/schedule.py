"""Which pairs of all requests go to which replica now: pure decisions, carried out by `adapters/dispatcher`.

A pair that several requests want is one entry with several waiters. Every request has an account of the tokens
that were sent for it, and the one that stands lowest goes next, tags rounded down to a quantum so that a request's
first quantum goes together: weighted fair queueing (Demers et al., 1989). Two requests of a class that both wait get
equal shares of the tokens, to within one quantum and one call. A newcomer begins at the class's virtual time, which
is what an equal share of the finished work has come to: it waits for no work that is only queued, and requests
without end can't keep a large one from its share. A class goes before the next.

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

# Of a window, in both: what one call takes when more waits, so that the next is there when it ends; and what is kept
# for requests in their first quantum, who would else wait for a call to end before theirs can even begin.
_CALL_PART = 4
_RESERVED_PART = 4


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
    quantum_tokens: int = 2048
    load_factor: float = 1.25


@dataclass(frozen=True, slots=True)
class Call:
    """Pairs for one replica; `priority` is for an engine that orders by it (lower first).

    `requests` are those that wait for any of the pairs as the call begins; others may join.
    """

    id: int
    replica: str
    pairs: tuple[Pair, ...]
    num_tokens: int
    priority: int
    deadline_s: float
    requests: frozenset[int] = frozenset()


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
    line_tag: int | None = None  # where its live place in the line is; its other places there are stale


@dataclass(slots=True)
class _Entry:
    pair: Pair
    priority: int  # the best class of its waiters: what it is counted under while it waits
    waiters: dict[int, None]
    call: int | None = None
    payer: int | None = None  # whose account it was sent on
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
    ends_request: bool = False  # somebody waits for nothing but this call


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
        self._classes: dict[int, int] = {}  # of each running call
        self._num_requests: Counter[int] = Counter()  # by class
        self._virtual_times: dict[int, float] = {}  # by class, in tokens
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

    def longest_waiting(self) -> Mapping[int, int]:
        """Of each class the oldest request that has a pair waiting. O(pairs): for when somebody looks."""
        oldest: dict[int, int] = {}
        for request in self._requests.values():  # as they came
            if request.priority not in oldest and any(self._is_waiting_for(request, key) for key in request.queue):
                oldest[request.priority] = request.number
        return oldest

    def tokens_ahead(self, priority: int, num_tokens: int) -> int:
        """Tokens that would be computed before a newcomer of `num_tokens` is done, at most.

        All that runs and what waits in better classes; of its own class no request gets more than the newcomer.
        """
        better = sum(tokens for class_, tokens in self._waiting.items() if class_ < priority)
        shares = self._num_requests[priority] * num_tokens
        return self.outstanding_tokens + better + min(self._waiting[priority], shares)

    def waiting_for(self, call: int) -> frozenset[int]:
        """The requests that wait for any pair of a running call now."""
        pairs = self._calls[call].pairs if call in self._calls else ()
        return frozenset(number for pair in pairs for number in self._entries[pair.key].waiters)

    # --- what happens -------------------------------------------------------------------------------------

    def set_replicas(self, names: Collection[str]) -> None:
        """Those that may get work from now on. What runs on others is the caller's to fail."""
        self._replicas = tuple(sorted(names))

    def add(self, request: int, pairs: Sequence[Pair], *, priority: int, deadline_s: float) -> int:
        """A new request, or more pairs of one; those that already wait or run are joined: how many.

        O(log n) and O(1) a pair.
        """
        asking = self._requests.get(request) or self._admit(request, priority, deadline_s)
        num_joined = 0
        for pair in pairs:
            if pair.key in asking.missing:
                continue
            asking.missing[pair.key] = None
            asking.queue.append(pair.key)
            entry = self._entries.get(pair.key)
            if entry is None:
                entry = self._entries[pair.key] = _Entry(pair, priority, {})
                self._wait(entry)
            else:
                num_joined += 1
            self._reclass(entry, min(entry.priority, priority) if entry.waiters else priority)
            entry.waiters[request] = None
        self._line_up(asking)
        return num_joined

    def _admit(self, number: int, priority: int, deadline_s: float) -> _Request:
        request = _Request(number, priority, deadline_s, self._virtual_time(priority), {}, deque())
        self._requests[number] = request
        self._num_requests[priority] += 1
        heappush(self._deadlines, (deadline_s, number))
        return request

    def discard(self, request: int) -> tuple[int, ...]:
        """The caller is gone: what nobody else wants is dropped; returns running calls to be aborted."""
        gone = self._requests.pop(request, None)
        if gone is None:
            return ()
        self._num_requests[gone.priority] -= 1
        touched: dict[int, None] = {}
        for key in gone.missing:
            entry = self._entries[key]
            del entry.waiters[request]
            if entry.call is not None:
                touched[entry.call] = None
            elif not entry.waiters:
                self._stop_waiting(entry)
                del self._entries[key]
            if entry.waiters:
                self._reclass(entry, self._best_class(entry))
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
        if call not in self._calls:
            return {}
        self._advance(self._classes[call], self._calls[call].num_tokens)
        return self._settle(self._end(call))

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

    def _reclass(self, entry: _Entry, priority: int) -> None:
        if entry.call is None:
            self._waiting[entry.priority] -= entry.pair.num_tokens
            self._waiting[priority] += entry.pair.num_tokens
        entry.priority = priority

    def _best_class(self, entry: _Entry) -> int:
        """O(1) while somebody of its present class still waits for it."""
        return entry.priority if entry.priority in self._priorities(entry) else min(self._priorities(entry))

    def _priorities(self, entry: _Entry) -> Iterator[int]:
        return (self._requests[number].priority for number in entry.waiters)

    def _wait_again(self, entry: _Entry, *, failed_on: str | None, is_alone: bool) -> None:
        """At the head of its requests, which get back what they were charged."""
        entry.call, entry.failed_on = None, failed_on or entry.failed_on
        entry.is_alone = entry.is_alone or is_alone  # it may still be the bad one
        self._wait(entry)
        payer = self._requests.get(entry.payer) if entry.payer is not None else None
        if payer is not None:
            payer.sent_tokens -= entry.pair.num_tokens
            self._line_up(payer)
        for number in entry.waiters:
            request = self._requests[number]
            request.queue.appendleft(entry.pair.key)
            self._line_up(request)

    def _line_up(self, request: _Request) -> None:
        """A refund may bring it forward: then it gets a second, better place, and the old one is stale."""
        tag = self._tag(request)
        if request.queue and (request.line_tag is None or tag < request.line_tag):
            request.line_tag = tag
            heappush(self._line, (request.priority, tag, request.number))

    def _tag(self, request: _Request) -> int:
        """Where the request stands: what was sent for it, in whole quanta, on top of where it began."""
        quantum = self._limits.quantum_tokens
        return request.start_tag + request.sent_tokens // quantum * quantum

    def _virtual_time(self, priority: int) -> int:
        """Where a newcomer begins: a quantum early, so that it goes before the work that runs at this moment."""
        if not self._requests:
            self._virtual_times.clear()  # nothing to be fair to: the tags, which are sent on, stay small
        return max(int(self._virtual_times.get(priority, 0.0)) - self._limits.quantum_tokens, 0)

    def _advance(self, priority: int, num_tokens: int) -> None:
        """So much was finished for all requests of a class together."""
        share = num_tokens / max(self._num_requests[priority], 1)
        self._virtual_times[priority] = self._virtual_times.get(priority, 0.0) + share

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
        """The calls that can start, in the order of the line; it stops at the first pair that finds no room.

        A pair that has failed on a replica lets others pass on that one only: the rest is held for it.
        """
        is_little = self.waiting_tokens <= min(self._limits.max_tokens_per_call, self._unreserved_tokens)
        idle = {name for name in self._replicas if not self._outstanding[name]}
        open_drafts: dict[str, _Draft] = {}
        done: list[_Draft] = []
        names, aside = self._replicas, list[tuple[_Request, str]]()
        while (request := self._first()) is not None:
            entry = self._entries[request.queue[0]]
            replica = self._replica_for(entry, request, open_drafts, names)
            if replica is None:
                names = tuple(name for name in names if name == entry.failed_on)
                if not names:
                    break
                aside.append((request, request.queue.popleft()))
                continue
            draft = open_drafts.get(replica)
            if draft is None or not self._may_join(draft, entry, request):
                max_tokens = self._call_tokens(is_whole=is_little and replica in idle)
                draft = _Draft(replica, self._tag(request), entry.priority, max_tokens)
                open_drafts[replica] = draft
                done.append(draft)
                self._num_calls[replica] += 1
            draft.ends_request = draft.ends_request or len(request.queue) == 1
            self._take(entry, draft)
            self._take_companions(entry, draft)
        for request, key in reversed(aside):
            request.queue.appendleft(key)
            self._line_up(request)
        return iter(done)

    def _first(self) -> _Request | None:
        """The request that stands lowest, its next pair at the head of its queue."""
        while self._line:
            _, tag, number = self._line[0]
            request = self._requests.get(number)
            if request is not None and tag == request.line_tag:
                while request.queue and not self._is_waiting_for(request, request.queue[0]):
                    request.queue.popleft()
                if request.queue and tag == self._tag(request):
                    return request
                request.line_tag = None
            heappop(self._line)
            if request is not None:
                self._line_up(request)
        return None

    def _is_waiting_for(self, request: _Request, key: str) -> bool:
        """Not what it was told already and somebody else now asks for again."""
        entry = self._entries.get(key)
        return entry is not None and entry.call is None and request.number in entry.waiters

    def _call_tokens(self, *, is_whole: bool) -> int:
        """A part of the window, so that a replica has the next call before it is done with this one."""
        most = self._limits.max_tokens_per_call
        return most if is_whole else min(most, max(self._limits.window_tokens // _CALL_PART, 1))

    def _replica_for(
        self, entry: _Entry, request: _Request, open_drafts: Mapping[str, _Draft], allowed: Collection[str]
    ) -> str | None:
        names = [name for name in allowed if self._has_room(name, entry, request, open_drafts.get(name))]
        elsewhere = [name for name in names if name != entry.failed_on]
        if not elsewhere and any(name != entry.failed_on for name in self._replicas):
            return None  # it waits for room on another than the one that failed it
        return choose_replica(
            entry.pair.group, entry.pair.num_tokens, elsewhere or names,
            self.load(), load_factor=self._limits.load_factor, slack_tokens=self._limits.quantum_tokens,
        )  # fmt: skip

    @property
    def _unreserved_tokens(self) -> int:
        return self._limits.window_tokens - self._limits.window_tokens // _RESERVED_PART

    def _has_room(self, replica: str, entry: _Entry, request: _Request, draft: _Draft | None) -> bool:
        outstanding, tokens = self._outstanding[replica], entry.pair.num_tokens
        is_new = request.sent_tokens < self._limits.quantum_tokens
        most = self._limits.window_tokens if is_new else self._unreserved_tokens
        is_in_window = not outstanding or outstanding + tokens <= most
        can_join = draft is not None and self._may_join(draft, entry, request)
        has_call = can_join or self._num_calls[replica] < self._limits.max_calls
        return is_in_window and has_call

    def _fits(self, draft: _Draft, entry: _Entry) -> bool:
        is_shared = not entry.is_alone and not (draft.entries and draft.entries[0].is_alone)
        return (
            is_shared
            and draft.priority == entry.priority
            and len(draft.entries) < self._limits.max_prompts_per_call
            and draft.num_tokens + entry.pair.num_tokens <= draft.max_tokens
        )

    def _may_join(self, draft: _Draft, entry: _Entry, request: _Request) -> bool:
        """A call is answered as a whole: one that ends a request isn't filled up with a part of another."""
        num_prompts = len(draft.entries) + len(request.queue)
        would_delay = draft.ends_request and num_prompts > self._limits.max_prompts_per_call
        return self._fits(draft, entry) and not would_delay

    def _take(self, entry: _Entry, draft: _Draft) -> None:
        self._stop_waiting(entry)
        entry.call = 0  # until its call has a number
        draft.entries.append(entry)
        draft.num_tokens += entry.pair.num_tokens
        self._outstanding[draft.replica] += entry.pair.num_tokens
        payer = min((self._requests[number] for number in entry.waiters), key=lambda r: (r.priority, r.number))
        payer.sent_tokens += entry.pair.num_tokens
        entry.payer = payer.number

    def _take_companions(self, entry: _Entry, draft: _Draft) -> None:
        """Other questions about the same passage share its prefix: they come along while there is room."""
        for key in list(self._groups.get(entry.pair.group, ())):
            if len(draft.entries) == self._limits.max_prompts_per_call:
                return
            other = self._entries[key]
            if other.failed_on is None and self._fits(draft, other):
                if self._outstanding[draft.replica] + other.pair.num_tokens > self._unreserved_tokens:
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
            requests=frozenset(waiters),
        )
        self._calls[number] = call
        self._classes[number] = draft.priority
        return call

    # --- ending -------------------------------------------------------------------------------------------

    def _is_wanted(self, call: int) -> bool:
        return any(self._entries[pair.key].waiters for pair in self._calls[call].pairs)

    def _end(self, number: int) -> list[_Entry]:
        """Free the call's place; its entries are neither waiting nor running now."""
        call = self._calls.pop(number)
        del self._classes[number]
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
                    self._num_requests[request.priority] -= 1
        return told
