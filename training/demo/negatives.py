"""Hard negatives of public questions, mined as for real models, and what they say of each passage."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.types import Passage
from training.config import Mining
from training.mining import with_negatives
from training.records import Question, Rows

NUM_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Negatives:
    """By question id the passages that look relevant and are not, best first; by passage the ids of such questions."""

    passages: Mapping[str, Sequence[str]]
    questions: Mapping[str, Sequence[str]]


def mine(
    passages: Mapping[str, Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], cache: Path
) -> Negatives:  # fmt: skip
    """What BM25 finds beside the right passage, less what holds an answer. Kept in `cache`, as it takes a minute."""
    corpus = {id_: Passage(id_, row["text"], row["title"]) for id_, row in passages.items()}
    asked = tuple(
        Question(row["id"], row["question"], tuple(row["answers"]), relevant=(corpus[row["passage_id"]],))
        for row in questions
    )
    mining = Mining(retrievers=["bm25"], depth=NUM_CANDIDATES, keep=NUM_CANDIDATES, cache=cache)
    mined = with_negatives(Rows(questions=asked, corpus=tuple(corpus.values())), mining)
    found = {question.id: [passage.id for passage in question.irrelevant] for question in mined.questions}
    return Negatives(found, _turned(found))


def _turned(found: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    questions: dict[str, list[str]] = defaultdict(list)
    for question, ids in found.items():
        for id_ in ids:
            questions[id_].append(question)
    return dict(questions)
