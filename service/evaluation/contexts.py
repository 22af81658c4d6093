"""Contexts of five that hold the passage asked about: what an answer can be made from at best."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from service.adapters.passage_store import PassageStore
from service.core.ranking import is_part_of
from service.errors import ConfigError
from service.evaluation.collections import shuffled
from service.evaluation.local_index import open_local_index
from service.types import JudgedQuestion, Passage

CONTEXT_SIZE: Final = 5
NUM_RETRIEVED: Final = 20

Contexts = Callable[[JudgedQuestion], Awaitable[Sequence[Passage] | None]]


async def candidates_or_index(question: JudgedQuestion) -> Sequence[Passage] | None:
    """The question's candidates in the retriever's order; the target's own index where it has none."""
    return question.candidates or None


def gold_contexts(index: Path | None, seed: int) -> Contexts:
    """Contexts of five from each question's candidates or, where it has none, from this index.

    Raises:
        ConfigError: in a context's making, too: the passage that a question is about is nowhere.
    """
    local = open_local_index(index) if index else None
    gold = GoldPassages(local.passages) if local else None

    async def context(question: JudgedQuestion) -> Sequence[Passage]:
        if question.candidates:
            return with_gold(question, gold_candidate(question), question.candidates, seed)
        if local is None or gold is None:
            raise ConfigError("--context gold needs --index, or rows with candidates", field="index")
        retrieved = [found.passage for found in await local.retriever.find(question.question, NUM_RETRIEVED)]
        if question.about is None:
            return shuffled(retrieved[:CONTEXT_SIZE], seed, question.id)
        return with_gold(question, gold.find(question), retrieved, seed)

    return context


def with_gold(question: JudgedQuestion, gold: Passage, retrieved: Sequence[Passage], seed: int) -> list[Passage]:
    """`gold` and the four best others, shuffled. Other parts of the same document are no distractors."""
    documents = {question.about, *question.relevant} - {None}
    others = [
        passage
        for passage in retrieved
        if passage.id != gold.id and not any(is_part_of(passage.id, document or "") for document in documents)
    ]
    return shuffled([gold, *others[: CONTEXT_SIZE - 1]], seed, question.id)


def gold_candidate(question: JudgedQuestion) -> Passage:
    """Of the row's own candidates. Raises ConfigError where none is relevant."""
    for passage in question.candidates:
        if passage.id in question.relevant:
            return passage
    raise ConfigError(f"question {question.id!r} has no relevant candidate: leave out --context gold", field="context")


class GoldPassages:
    """Finds the passage of an index that a question is about."""

    def __init__(self, store: PassageStore) -> None:
        self._store = store
        self._rows: dict[str, list[int]] = {}
        for row, id_ in enumerate(store.ids()):
            document, _, part = id_.rpartition("#")
            self._rows.setdefault(document if document and part.isdigit() else id_, []).append(row)

    def find(self, question: JudgedQuestion) -> Passage:
        """The first part of the document that holds an answer, or its first part.

        Raises:
            ConfigError: the index lacks it, or nobody says which it is.
        """
        if question.about is None or question.about not in self._rows:
            raise ConfigError(
                f"question {question.id!r}: the index lacks the passage {question.about!r}", field="passage_id"
            )
        parts = self._store.passages(self._rows[question.about])
        answers = [answer.casefold() for answer in question.answers or ()]
        return next((part for part in parts if any(answer in part.text.casefold() for answer in answers)), parts[0])
