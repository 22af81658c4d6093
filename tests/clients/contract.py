"""What a client is asked to do, and where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A service as a client is told of it."""

    url: str
    key: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """One result: the document as the client gives it back, or which one it says it is."""

    text: str
    score: float


Rank = Callable[[Place, str, Sequence[str], int | None], list[Ranked]]


@dataclass(frozen=True, slots=True)
class RerankClient:
    """`rank` uses the client as its users do. `top_n` None is the client's own way to say: all.

    Not every client can say how many it wants; some don't read errors, and fail without telling why; one cuts what is
    more than a thousand documents by itself.
    """

    name: str
    rank: Rank
    has_top_n: bool = True
    reads_errors: bool = True
    bounds_itself: bool = False


def by_index(documents: Sequence[str], found: Sequence[tuple[int, float]]) -> list[Ranked]:
    return [Ranked(documents[index], score) for index, score in found]
