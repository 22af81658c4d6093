"""The Scorer port: what is known comes from the cache, the rest is admitted, tokenised and computed in waves."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from service.adapters.dispatcher import Dispatcher
from service.adapters.replicas import Replicas
from service.adapters.tokenizer import PromptTokenizer
from service.core.admission import Admission, DrainRate, TokenEstimate
from service.core.cache_keys import CacheKeys
from service.core.early_exit import ExitRule
from service.core.schedule import Pair, Scheduler
from service.errors import DeadlineError
from service.ports import Cache, Scores
from service.types import Passage, Priority, Score, Usage

# About how many pairs are tokenised at a time: tens of milliseconds of work, in which a large request would else hold
# back what could be computed already. The first batch of an idle service keeps the engine busy while the next is made.
_BATCH = 256
_FIRST_BATCH = 4

_PACKED = struct.Struct("<dd")  # relevance, label mass


@dataclass(frozen=True, slots=True)
class Gate:
    """Admits whole requests or refuses them, by the work that is ahead of them."""

    scheduler: Scheduler
    drain: DrainRate
    admission: Admission
    estimate: TokenEstimate
    clock: Callable[[], float]

    def check_pairs(self, num_pairs: int, *, deadline_s: float, priority: Priority) -> None:
        """Raises OverloadedError where so many pairs of the usual length would wait too long to be scored in time.

        For who makes do with a part of them.
        """
        self._check(num_pairs * self.estimate.tokens_per_pair, 0, deadline_s, priority)

    def check_texts(
        self, passages: Sequence[Passage], *, deadline_s: float, priority: Priority, is_part_enough: bool
    ) -> None:
        """The same for known texts, which are not tokenised yet; or where all of them must be done by then."""
        num_tokens = self.estimate.tokens(_num_chars(passages))
        self._check(num_tokens, 0 if is_part_enough else num_tokens, deadline_s, priority)

    def learn(self, passages: Iterable[Passage], pairs: Sequence[Pair]) -> None:
        """What texts have come to as prompts."""
        self.estimate.observe(_num_chars(passages), sum(pair.num_tokens for pair in pairs), len(pairs))

    def _check(self, num_tokens: int, num_due: int, deadline_s: float, priority: Priority) -> None:
        """`num_due` of the `num_tokens` must be done in time."""
        self.admission.check(
            amount=num_due,
            ahead=self.scheduler.tokens_ahead(priority, num_tokens),
            per_s=self.drain.per_s,
            time_left_s=deadline_s - self.clock(),
        )


def _num_chars(passages: Iterable[Passage]) -> int:
    return sum(len(passage.title) + len(passage.text) for passage in passages)


@dataclass(slots=True)
class _Ranking:
    """One request while it is being scored; passages, keys and scores in the retriever's order."""

    question: str
    passages: Sequence[Passage]
    keys: Sequence[str]
    scores: list[Score | None]
    usage: Usage = field(default_factory=Usage)
    is_partial: bool = False

    def fill(self, found: Mapping[str, Score]) -> None:
        self.scores = [found.get(key, score) for key, score in zip(self.keys, self.scores, strict=True)]

    def unscored(self) -> list[Passage]:
        return [passage for passage, score in zip(self.passages, self.scores, strict=True) if score is None]


class VllmScorer:
    """Scores pairs on the replicas, those of all requests together; every pair at most once at a time."""

    def __init__(
        self, dispatcher: Dispatcher, replicas: Replicas, tokenizer: PromptTokenizer, cache: Cache, keys: CacheKeys,
        gate: Gate, exit_rule: ExitRule,
    ) -> None:  # fmt: skip
        self._dispatcher = dispatcher
        self._replicas = replicas
        self._tokenizer = tokenizer
        self._cache = cache
        self._keys = keys
        self._gate = gate
        self._exit_rule = exit_rule

    def admit(self, num_pairs: int, *, deadline_s: float, priority: Priority) -> None:
        self._replicas.require()
        self._gate.check_pairs(num_pairs, deadline_s=deadline_s, priority=priority)

    async def score(
        self, question: str, passages: Sequence[Passage], *, deadline_s: float, use_cache: bool,
        priority: Priority = Priority.INTERACTIVE, top_k: int | None = None, allow_partial: bool = False,
    ) -> Scores:  # fmt: skip
        keys = self._keys.scores(question, passages)
        ranking = _Ranking(question, passages, keys, [None] * len(keys))
        if use_cache:
            ranking.fill(await self._cached(keys))
        unscored = ranking.unscored()
        ranking.usage = Usage(pairs_cached=len(keys) - len(unscored))
        if unscored:
            self._replicas.require()
            self._gate.check_texts(unscored, deadline_s=deadline_s, priority=priority, is_part_enough=allow_partial)
        wanted = len(keys) if top_k is None else top_k
        while not ranking.is_partial and (wave := self._exit_rule.next_wave(ranking.scores, top_k=wanted)):
            await self._compute(ranking, wave, deadline_s=deadline_s, priority=priority, use_cache=use_cache)
        return _settled(ranking, allow_partial=allow_partial)

    async def _cached(self, keys: Sequence[str]) -> dict[str, Score]:
        unique = list(dict.fromkeys(keys))
        values = await self._cache.get_many("score", unique)
        return {key: unpack(value) for key, value in zip(unique, values, strict=True) if is_packed(value)}

    async def _compute(
        self, ranking: _Ranking, wave: Sequence[int], *, deadline_s: float, priority: Priority, use_cache: bool
    ) -> None:
        unique = {ranking.keys[index]: ranking.passages[index] for index in wave}
        pairs: list[Pair] = []
        computed = await self._dispatcher.compute(
            self._batches(ranking.question, unique, pairs), priority=priority, deadline_s=deadline_s
        )
        if use_cache and computed.scores:
            await self._cache.set_many("score", {key: pack(score) for key, score in computed.scores.items()})
        ranking.fill(computed.scores)
        ranking.is_partial = computed.is_partial
        num_scored = len(computed.scores)
        num_tokens = sum(pair.num_tokens for pair in pairs if pair.key in computed.scores)
        ranking.usage += Usage(prompt_tokens=num_tokens, completion_tokens=num_scored, pairs_scored=num_scored)

    async def _batches(
        self, question: str, passages: Mapping[str, Passage], made: list[Pair]
    ) -> AsyncGenerator[list[Pair], None]:
        """The pairs of `passages` (by their keys) as they are tokenised; `made` collects them.

        Where nothing is being computed, the first batch is small: the rest is tokenised beside its computation.
        """
        is_text = any(passage.context_ids is None for passage in passages.values())
        for keys in _parts(list(passages), first=_FIRST_BATCH if is_text and self._dispatcher.is_idle else _BATCH):
            part = {key: passages[key] for key in keys}
            pairs = await asyncio.to_thread(self._pairs, question, part)
            self._gate.learn(part.values(), pairs)
            made += pairs
            yield pairs

    def _pairs(self, question: str, passages: Mapping[str, Passage]) -> list[Pair]:
        """The prompts of `passages` (by their keys). Takes milliseconds: for a thread of its own."""
        limit = self._replicas.max_model_len() - 1
        prompts = self._tokenizer.score_prompts(question, list(passages.values()), max_tokens=limit)
        return [
            Pair(key, self._keys.passage(passage), len(prompt.ids), prompt.ids)
            for (key, passage), prompt in zip(passages.items(), prompts, strict=True)
        ]


def _parts(keys: Sequence[str], *, first: int) -> Iterator[Sequence[str]]:
    """Of rising length; what would be less than the first is not a part of its own."""
    begin, size = 0, first
    while begin < len(keys):
        end = len(keys) if len(keys) - begin < size + first else begin + size
        yield keys[begin:end]
        begin, size = end, min(4 * size, _BATCH)


def _settled(ranking: _Ranking, *, allow_partial: bool) -> Scores:
    has_scores = any(score is not None for score in ranking.scores)
    if ranking.is_partial and not (allow_partial and has_scores):
        raise DeadlineError("the passages could not be scored in the time this request has")
    return Scores(tuple(ranking.scores), ranking.usage, ranking.is_partial)


def pack(score: Score) -> bytes:
    """16 bytes: two little-endian doubles."""
    return _PACKED.pack(score.relevance, score.label_mass)


def is_packed(value: bytes | None) -> TypeGuard[bytes]:
    """Whether `value` can be what `pack` made: whatever else is in the cache is a miss, not a score."""
    if value is None or len(value) != _PACKED.size:
        return False
    return all(0.0 <= part <= 1.0 for part in _PACKED.unpack(value))


def unpack(value: bytes) -> Score:
    return Score(*_PACKED.unpack(value))
