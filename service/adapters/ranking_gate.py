"""The ranking gate at work: the probe is ranked in the background, and until it has passed nothing is reranked.

The verdict is remembered through the cache by a digest of all that it depends on (checkpoint, prompts, index, encoder,
probe): with Redis the replicas of a deployment share it and a restart asks again for nothing; without, each process
ranks the probe when it starts. A file would need a place to write and would be nobody else's. A verdict that was
forgotten costs one probe.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from pydantic import TypeAdapter, ValidationError

from service.core.gate import GateStatus, Outcome, Verdict, compare, judge
from service.core.ranking import is_part_of
from service.errors import (
    ConfigError,
    DeadlineError,
    EngineError,
    OverloadedError,
    RequestError,
    RerankGatedError,
)
from service.pipeline import Retriever
from service.ports import Cache, Scorer, Scores
from service.types import JudgedQuestion, Passage, Priority

log = structlog.get_logger(__name__)

KIND = "verdict"
TTL_S = 30 * 24 * 3600
NUM_AT_ONCE = 8
QUESTION_TIME_S = 120.0
PAUSE_S = 1.0

_VERDICTS = TypeAdapter(Verdict)


@dataclass(frozen=True, slots=True)
class Probe:
    """Questions to rank, `top_n` passages of the index for those that bring none; `key` names their verdict."""

    questions: Sequence[JudgedQuestion]
    top_n: int
    key: str


def check_probe(questions: Sequence[JudgedQuestion], *, has_index: bool) -> list[JudgedQuestion]:
    """The questions that something is known to be relevant to.

    Raises:
        ConfigError: there are none, or an index is needed and isn't there.
    """
    judged = [question for question in questions if question.relevant]
    if not judged:
        raise ConfigError("the probe has no question with a relevant passage", field="gate.probe")
    if not has_index and any(not question.candidates for question in judged):
        raise ConfigError("the probe has questions without candidates, which need an index", field="gate.probe")
    return judged


class RankingGate:
    """`run` it once beside everything else; `status` says what is known so far."""

    def __init__(
        self, probe: Probe, scorer: Scorer, retriever: Retriever | None, cache: Cache, *, is_overridden: bool = False,
        observe: Callable[[GateStatus], None] = lambda _: None, clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._probe = probe
        self._scorer = scorer
        self._retriever = retriever
        self._cache = cache
        self._observe = observe
        self._clock = clock
        self._sleep = sleep
        self._room = asyncio.Semaphore(NUM_AT_ONCE)
        self.status = GateStatus(is_overridden=is_overridden)
        observe(self.status)

    def require(self) -> None:
        """Raises RerankGatedError where the checkpoint may not rerank, or not yet."""
        if not self.status.is_open:
            raise RerankGatedError(
                f"this checkpoint may not rerank: {self.status.text}",
                retry_after_s=5 if self.status.verdict is None else None,
            )

    async def run(self) -> None:
        """Find the verdict, however long the engine takes to come up; then done.

        Raises:
            ConfigError: the probe proves nothing here, or can't be ranked.
        """
        known = await self._known()
        verdict = known or judge(await self._outcomes())
        if known is None:
            await self._cache.set_many(KIND, {self._probe.key: _VERDICTS.dump_json(verdict)})
        self.status = GateStatus(verdict, self.status.is_overridden)
        self._observe(self.status)
        tell = log.info if verdict.is_passed else log.error
        tell(f"gate_{self.status.state}", gate=self.status.text, is_remembered=known is not None)

    async def _known(self) -> Verdict | None:
        """Asked for twice: a Redis that is slower than its patience, as when it connects, has it a little later."""
        value = (await self._cache.get_many(KIND, [self._probe.key]))[0]
        if value is None:
            await self._sleep(PAUSE_S)
            value = (await self._cache.get_many(KIND, [self._probe.key]))[0]
        try:
            return None if value is None else _VERDICTS.validate_json(value)
        except ValidationError:
            return None

    async def _outcomes(self) -> list[Outcome]:
        log.info("gate_probe_begun", questions=len(self._probe.questions))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._outcome(question)) for question in self._probe.questions]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the others are this one's cancelled sisters
        return [task.result() for task in tasks]

    async def _outcome(self, question: JudgedQuestion) -> Outcome:
        async with self._room:
            passages = await self._passages(question)
            scored = await self._scored(question, passages)
        relevant = [any(is_part_of(passage.id, document) for document in question.relevant) for passage in passages]
        return compare(relevant, scored.scores)

    async def _passages(self, question: JudgedQuestion) -> Sequence[Passage]:
        if question.candidates or self._retriever is None:
            return question.candidates
        return [found.passage for found in await self._retriever.find(question.question, self._probe.top_n)]

    async def _scored(self, question: JudgedQuestion, passages: Sequence[Passage]) -> Scores:
        """Behind all work that somebody waits for; where the engine can't now, again a little later."""
        while True:
            try:
                return await self._scorer.score(
                    question.question, passages, deadline_s=self._clock() + QUESTION_TIME_S, use_cache=True,
                    priority=Priority.BULK,
                )  # fmt: skip
            except RequestError as exc:
                raise ConfigError(f"the probe's question {question.id!r} can't be ranked: {exc.message}") from exc
            except (EngineError, DeadlineError, OverloadedError):
                await self._sleep(PAUSE_S)


class GatedScorer:
    """The Scorer port behind the gate: while that is closed nothing is scored."""

    def __init__(self, scorer: Scorer, gate: RankingGate) -> None:
        self._scorer = scorer
        self._gate = gate

    def admit(self, num_pairs: int, *, deadline_s: float, priority: Priority) -> None:
        is_open = self._gate.status.is_open
        self._scorer.admit(num_pairs if is_open else 0, deadline_s=deadline_s, priority=priority)

    async def score(
        self, question: str, passages: Sequence[Passage], *, deadline_s: float, use_cache: bool,
        priority: Priority = Priority.INTERACTIVE, top_k: int | None = None, allow_partial: bool = False,
    ) -> Scores:  # fmt: skip
        """Raises RerankGatedError, too."""
        self._gate.require()
        return await self._scorer.score(
            question, passages, deadline_s=deadline_s, use_cache=use_cache, priority=priority, top_k=top_k,
            allow_partial=allow_partial,
        )  # fmt: skip
