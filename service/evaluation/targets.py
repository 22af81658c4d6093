"""What is evaluated: a running service, or the same pipeline in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.types import Passage


@dataclass(frozen=True, slots=True)
class Ranking:
    """Passages of one question in the order they were given or retrieved in, each with its P(True).

    `num_tokens` are prompt tokens, None where nobody says.
    """

    ids: tuple[str, ...]
    relevances: tuple[float, ...]
    seconds: float
    num_tokens: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: passage ids in the retriever's order, and those kept, best first."""

    text: str
    is_abstention: bool
    retrieved: tuple[str, ...]
    kept: tuple[str, ...]
    num_pairs: int
    num_tokens: int
    seconds: float


class Target(Protocol):
    """Raises EngineError and its kin where an answer or ranking is not to be had, or only a degraded one."""

    @property
    def checkpoint(self) -> str:
        """What is evaluated, as results name it; known once something was asked."""
        ...

    async def retrieve(self, question: str, top_n: int) -> tuple[str, ...]:
        """Ids of the `top_n` nearest passages, in the retriever's order."""
        ...

    async def rank(self, question: str, passages: Sequence[Passage]) -> Ranking: ...

    async def retrieve_and_rank(self, question: str, top_n: int) -> Ranking: ...

    async def answer(
        self, question: str, passages: Sequence[Passage] | None, *, top_n: int | None, top_k: int | None
    ) -> Reply:
        """From `passages`, or from the index; as the service's settings say where nothing is said."""
        ...
