"""What is asked, and when: draws from a corpus and open-loop schedules. Pure; chance is an argument."""

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, takewhile
from typing import Generic, TypeVar

from service.types import Passage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One question with the passages to be scored for it."""

    question: str
    passages: tuple[Passage, ...]


class Deck(Generic[T]):
    """Draws without replacement; after the last one all of them again, in another order."""

    def __init__(self, items: Sequence[T], rng: random.Random) -> None:
        self._items = list(items)
        self._rng = rng
        self._left: list[T] = []

    def draw(self) -> T:
        if not self._left:
            self._left = list(self._items)
            self._rng.shuffle(self._left)
        return self._left.pop()


class Zipf:
    """Ranks from 0, rank r with a probability in proportion to 1 / (r + 1) ** exponent."""

    def __init__(self, num_ranks: int, exponent: float, rng: random.Random) -> None:
        self._cumulative = list(accumulate(1 / rank**exponent for rank in range(1, num_ranks + 1)))
        self._rng = rng

    def draw(self) -> int:
        return bisect_right(self._cumulative, self._rng.random() * self._cumulative[-1])

    def distinct(self) -> Iterator[int]:
        """Draws, the repeated ones left out; endless, so take no more than there are ranks."""
        seen: set[int] = set()
        while True:
            rank = self.draw()
            if rank not in seen:
                seen.add(rank)
                yield rank

    def share_of_head(self, num_ranks: int) -> float:
        """The part of all draws that falls on the first `num_ranks` ranks."""
        return self._cumulative[num_ranks - 1] / self._cumulative[-1] if num_ranks else 0.0


class Traffic:
    """Requests over one corpus. No question comes twice before all have come, so no pair is seen again."""

    def __init__(
        self, passages: Sequence[Passage], questions: Sequence[str], rng: random.Random, *, exponent: float = 1.0
    ) -> None:
        self._passages = Deck(passages, rng)
        self._questions = Deck(questions, rng)
        self._by_rank = rng.sample(list(passages), len(passages))
        self.zipf = Zipf(len(passages), exponent, rng)

    @property
    def by_rank(self) -> Sequence[Passage]:
        """The corpus, most often repeated passage first."""
        return self._by_rank

    def unique(self, num_requests: int, num_documents: int) -> list[Request]:
        """New questions about passages that were not drawn before (until the corpus is through)."""
        return [
            Request(self._questions.draw(), tuple(self._passages.draw() for _ in range(num_documents)))
            for _ in range(num_requests)
        ]

    def repeated_passages(self, num_requests: int, num_documents: int) -> list[Request]:
        """New questions about passages by Zipf's law, none twice in one request."""
        return [
            Request(
                self._questions.draw(),
                tuple(self._by_rank[rank] for rank in islice(self.zipf.distinct(), num_documents)),
            )
            for _ in range(num_requests)
        ]

    def head(self, num_passages: int, num_documents: int) -> list[Request]:
        """The most frequent passages once each, the rarest of them first: a cache forgets the oldest first."""
        rising = self._by_rank[:num_passages][::-1]
        return [Request(self._questions.draw(), tuple(part)) for part in in_parts(rising, num_documents)]


def in_parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive parts of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def with_at_most(requests: Sequence[Request], max_documents: int) -> list[Request]:
    """The same pairs in smaller requests."""
    return [
        replace(request, passages=tuple(part))
        for request in requests
        for part in in_parts(request.passages, max_documents)
    ]


def rotated(items: Sequence[T], number: int) -> list[T]:
    """Another one first in every round, so that nobody always comes first, or after the same one."""
    start = number % len(items)
    return [*items[start:], *items[:start]]


def poisson_moments(rate: float, duration_s: float, rng: random.Random) -> list[float]:
    """Arrivals at `rate` a second in [0, duration_s): independent of each other and of any answer."""
    moments: list[float] = []
    now_s = rng.expovariate(rate)
    while now_s < duration_s:
        moments.append(now_s)
        now_s += rng.expovariate(rate)
    return moments


def num_within(sizes: Iterable[int], budget: int) -> int:
    """How many of the first `sizes` fit into `budget` together; reads no further than that."""
    return sum(1 for _ in takewhile(lambda total: total <= budget, accumulate(sizes)))


def num_blocks(num_tokens: int, block_size: int) -> int:
    return -(-num_tokens // block_size)
