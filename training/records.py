"""What every reader makes of its files: questions with their passages, and chats."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from service.types import Passage

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """One instruction example; the last turn is the assistant's and is what is learnt."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question with what is known of its passages.

    `answers` may be empty where an answer exists but no short one is given: such a question serves ranking only.
    `relevant` and `irrelevant` are the passages known to hold and not to hold the answer. `history` are the turns
    before the question, where it ends a conversation.
    """

    id: str
    text: str
    answers: tuple[str, ...] = ()
    relevant: tuple[Passage, ...] = ()
    irrelevant: tuple[Passage, ...] = ()
    history: tuple[Turn, ...] = ()
    is_answerable: bool = True


@dataclass(frozen=True, slots=True)
class Rows:
    """One source: its questions or chats, and the passages that negatives may be mined from.

    `has_documents`: what is `relevant` is whole documents, to be cut before it is ranked or retrieved.
    """

    questions: tuple[Question, ...] = ()
    chats: tuple[Chat, ...] = ()
    corpus: tuple[Passage, ...] = ()
    has_documents: bool = False

    @property
    def size(self) -> int:
        return len(self.questions) + len(self.chats)


def distinct(passages: Iterable[Passage]) -> tuple[Passage, ...]:
    """The first of each id, in order."""
    return tuple({passage.id: passage for passage in reversed(list(passages))}.values())[::-1]
