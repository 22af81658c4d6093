"""The asyncio shell of the scheduler: the clock, the calls to the replicas, and the futures of those who wait.

`core/schedule` decides; here its plans are carried out. One loop asks for a plan whenever something has
happened, one task per call speaks with a replica, and every `compute` waits for one future.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count

import structlog

from service.adapters.engine import is_engines_fault
from service.adapters.replicas import Replicas
from service.core.admission import DrainRate
from service.core.schedule import Call, Pair, Scheduler
from service.core.scoring import score_from_logprobs
from service.errors import DeadlineError, EngineError, EngineRefusedError
from service.ports import NO_TRACER, Place, Tracer
from service.types import Score

log = structlog.get_logger(__name__)

# A call ends when nobody waits for it any more, which is at the last deadline; this only bounds what a bug could cost.
_CALL_TIMEOUT_S = 600.0

# Without any replica those who wait are told after this: the one that was taken out may pass its trial at once.
_HOPE_S = 1.0


@dataclass(frozen=True, slots=True)
class Computed:
    """Scores by the pairs' keys; `is_partial` where the deadline came before the last of them, or the first."""

    scores: Mapping[str, Score]
    is_partial: bool = False


@dataclass(slots=True)
class _Request:
    """One caller: the pairs that it still waits for, and what it has got; `is_open` while more may come."""

    done: "asyncio.Future[EngineError | None]"
    begun_s: float
    place: Place | None
    missing: set[str] = field(default_factory=set)
    scores: dict[str, Score] = field(default_factory=dict)
    is_open: bool = True

    def deliver(self, key: str, score: Score) -> None:
        self.scores[key] = score
        self.missing.discard(key)
        self._end_if_complete()

    def close(self) -> None:
        """That was all."""
        self.is_open = False
        self._end_if_complete()

    def _end_if_complete(self) -> None:
        if not (self.missing or self.is_open):
            self.end()

    def end(self, error: EngineError | None = None) -> None:
        """Wake the caller: everything is there, the time is over, or `error` happened."""
        if not self.done.done():
            self.done.set_result(error)


@dataclass(frozen=True, slots=True)
class _Running:
    """A call under way; `num_lost` were given up before it began."""

    call: Call
    task: asyncio.Task[None]
    num_lost: int


class Dispatcher:
    """Computes pairs for all requests at once over all replicas.

    `run` must be under way while `compute` is awaited. Cancelling a `compute` drops what nobody else waits for,
    and aborts on the server what was already running for nobody else.
    """

    def __init__(
        self, scheduler: Scheduler, replicas: Replicas, drain: DrainRate, *, passes_priority: bool,
        clock: Callable[[], float] = time.monotonic, observe_call: Callable[[int], None] = lambda _: None,
        observe_joined: Callable[[int], None] = lambda _: None, tracer: Tracer = NO_TRACER,
    ) -> None:  # fmt: skip
        self._scheduler = scheduler
        self._replicas = replicas
        self._drain = drain
        self._passes_priority = passes_priority
        self._clock = clock
        self._observe_call = observe_call
        self._observe_joined = observe_joined
        self._tracer = tracer
        self._numbers = count(1)
        self._requests: dict[int, _Request] = {}
        self._running: dict[int, _Running] = {}
        self._num_lost = 0
        self._happened = asyncio.Event()
        self._was_saturated = False
        replicas.follow(self._replicas_changed)
        self._replicas_changed()

    @property
    def num_requests(self) -> int:
        """Callers that wait for a score right now."""
        return len(self._requests)

    @property
    def num_calls(self) -> int:
        """Calls to replicas that are under way."""
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is computed, and nothing waits to be."""
        return not self._running and not self._scheduler.num_waiting_pairs

    def waits_s(self) -> Mapping[int, float]:
        """How long the oldest request of each class has waited that still has a pair waiting to be sent."""
        now_s = self._clock()
        oldest = self._scheduler.longest_waiting()
        return {class_: now_s - self._requests[number].begun_s for class_, number in oldest.items()}

    async def compute(
        self, batches: AsyncGenerator[Sequence[Pair], None], *, priority: int, deadline_s: float
    ) -> Computed:
        """A score for each pair of all `batches`, by key, shared with everybody who waits for the same ones.

        What has come is computed while the next batch is made.

        Raises:
            EngineError: no replica is up, or a pair failed on two of them.
        """
        self._replicas.require()
        number = next(self._numbers)
        request = _Request(asyncio.get_running_loop().create_future(), self._clock(), self._tracer.place())
        self._requests[number] = request
        try:
            async with aclosing(batches):
                async for pairs in batches:
                    if request.done.done():
                        break
                    request.missing.update(pair.key for pair in pairs)
                    self._observe_joined(self._scheduler.add(number, pairs, priority=priority, deadline_s=deadline_s))
                    self._happened.set()
                else:
                    request.close()
            error = await request.done
        finally:
            del self._requests[number]
            self._abort(self._scheduler.discard(number))
            self._happened.set()
        if error is not None:
            raise error
        return Computed(request.scores, is_partial=bool(request.missing) or request.is_open)

    async def run(self) -> None:
        """Carry out the scheduler's plans for ever. When it ends, everybody who waits is told."""
        try:
            async with asyncio.TaskGroup() as calls:
                while True:
                    self._happened.clear()
                    await self._wait(self._carry_out(calls))
        finally:
            for request in self._requests.values():
                request.end(EngineError("the service is shutting down"))

    def _carry_out(self, calls: asyncio.TaskGroup) -> float | None:
        """Start what is due; returns the moment at which something will be due if nothing happens."""
        was_idle = not self._running
        now_s = self._clock()
        plan = self._scheduler.schedule(now_s)
        for number in plan.expired:
            if number in self._requests:
                self._requests[number].end()
        self._abort(plan.aborted)
        if was_idle and plan.calls:
            self._drain.resume(now_s)
        for call in plan.calls:
            self._running[call.id] = _Running(call, calls.create_task(self._call(call)), self._num_lost)
        self._was_saturated = self._was_saturated and self._scheduler.num_waiting_pairs > 0
        return plan.wake_at_s

    async def _wait(self, wake_at_s: float | None) -> None:
        """Until something has happened, or it is `wake_at_s`."""
        if wake_at_s is None:
            await self._happened.wait()
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(wake_at_s - self._clock(), 0.0), self._happened.set)
        try:
            await self._happened.wait()
        finally:
            timer.cancel()

    async def _call(self, call: Call) -> None:
        """One call from its beginning to everybody's knowing of its end."""
        try:
            scores = await self._ask_traced(call)
        except asyncio.CancelledError:
            self._running.pop(call.id, None)
            self._scheduler.finish(call.id)
            raise
        except EngineError as exc:
            self._fail(call, exc)
        except DeadlineError as exc:
            self._fail(call, EngineError(exc.message))
        else:
            self._finish(call, scores)

    async def _ask_traced(self, call: Call) -> list[Score]:
        """The span of a call is linked to the requests that it serves, those that join it meanwhile, too."""
        places = self._places(call.requests)
        with self._tracer.batch("score_batch", places) as span:
            span.set(num_pairs=len(call.pairs), num_tokens=call.num_tokens, replica=call.replica)
            scores = await self._ask(call)
            joined = self._places(self._scheduler.waiting_for(call.id) - call.requests) if places else ()
            for place in joined:
                span.link(place)
        return scores

    def _places(self, numbers: Iterable[int]) -> list[Place]:
        waiting = (self._requests.get(number) for number in numbers)
        return [request.place for request in waiting if request is not None and request.place is not None]

    async def _ask(self, call: Call) -> list[Score]:
        engine = self._replicas.ready().get(call.replica)
        if engine is None:
            raise EngineError(f"{call.replica} was taken out")
        self._observe_call(len(call.pairs))
        found, _ = await engine.client.label_logprobs(
            engine.model().id, [pair.prompt for pair in call.pairs], engine.labels, timeout_s=_CALL_TIMEOUT_S,
            priority=call.priority if self._passes_priority else None,
        )  # fmt: skip
        engine.note_progress()
        return [score_from_logprobs(logprobs.true, logprobs.false, engine.calibration) for logprobs in found]

    def _finish(self, call: Call, scores: Sequence[Score]) -> None:
        self._note_drained(call)
        self._was_saturated = self._scheduler.num_waiting_pairs > 0
        waiting = self._scheduler.finish(call.id)
        for pair, score in zip(call.pairs, scores, strict=True):
            for number in waiting.get(pair.key, ()):
                self._requests[number].deliver(pair.key, score)
        self._happened.set()

    def _fail(self, call: Call, error: EngineError) -> None:
        log.warning("scoring_call_failed", replica=call.replica, pairs=len(call.pairs), error=error.message)
        self._running.pop(call.id, None)
        self._note_lost()
        self._try_elsewhere(call, error)
        if is_engines_fault(error):
            self._replicas.suspect(call.replica, error.message)

    def _try_elsewhere(self, call: Call, error: EngineError) -> None:
        """Tell those whose pair will not be tried again; the others wait for another replica."""
        failed = self._scheduler.fail(call.id, is_refusal=isinstance(error, EngineRefusedError))
        for number in dict.fromkeys(number for numbers in failed.values() for number in numbers):
            self._requests[number].end(error)
        self._happened.set()

    def _abort(self, ids: Iterable[int]) -> None:
        """Cancelling a call closes its connection, by which vLLM aborts it."""
        for id_ in ids:
            self._running.pop(id_).task.cancel()
            self._note_lost()

    def _note_drained(self, call: Call) -> None:
        """What is learned of the engines' rate from a call that was answered, unless others were lost meanwhile."""
        running = self._running.pop(call.id, None)
        if running is None or running.num_lost < self._num_lost:
            self._drain.skip(self._clock())
        else:
            self._drain.observe(call.num_tokens, self._clock(), is_saturated=self._was_saturated)

    def _note_lost(self) -> None:
        self._num_lost += 1
        self._drain.skip(self._clock())

    def _replicas_changed(self) -> None:
        """Work moves from a replica that was taken out to the others, if there are any."""
        ready = self._replicas.ready()
        self._scheduler.set_replicas(tuple(ready))
        for call in [one.call for one in self._running.values() if ready and one.call.replica not in ready]:
            self._abort([call.id])
            self._try_elsewhere(call, EngineError(f"{call.replica} was taken out"))
        if not ready and self._requests:
            asyncio.get_running_loop().call_later(_HOPE_S, self._give_up)
        self._happened.set()

    def _give_up(self) -> None:
        """Tell everybody who waits why nothing can be scored, unless something can by now."""
        try:
            self._replicas.require()
        except EngineError as exc:
            for request in self._requests.values():
                request.end(exc)
