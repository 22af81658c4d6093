"""This project's own JSONL: passages and questions in two files, or questions with their candidates in one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from service.types import Passage
from training.readers.rows import Row, json_rows
from training.records import Question, Rows


def read_passages(path: Path) -> dict[str, Passage]:
    """`{id, title?, text}` rows by id, in order."""
    return {passage.id: passage for passage in (row.passage() for row in json_rows(path))}


def read_questions(passages: Path, questions: Sequence[Path]) -> Rows:
    """`{id, question, answers[], passage_id, answerable?}`; without an answer in its passage, that is irrelevant."""
    corpus = read_passages(passages)
    read = tuple(_question(row, corpus) for path in questions for row in json_rows(path))
    return Rows(questions=read, corpus=tuple(corpus.values()))


def _question(row: Row, corpus: Mapping[str, Passage]) -> Question:
    is_answerable = row.flag("answerable", default=True)
    id_ = row.text("passage_id") if is_answerable or "passage_id" in row else None
    if id_ is not None and id_ not in corpus:
        raise row.bad("passage_id", "the id of a passage")
    shown = (corpus[id_],) if id_ is not None else ()
    return Question(
        row.text("id"), row.text("question"), row.texts("answers") if is_answerable else (),
        relevant=shown if is_answerable else (), irrelevant=() if is_answerable else shown,
        is_answerable=is_answerable,
    )  # fmt: skip


def read_candidates(path: Path) -> Rows:
    """`{id, query, answers[], candidates[{id, title, text, label}]}`: label 1 is relevant."""
    questions = tuple(_ranked(row) for row in json_rows(path))
    return Rows(questions=questions)


def _ranked(row: Row) -> Question:
    candidates = [(candidate.passage(), candidate.flag("label", default=False)) for candidate in row.rows("candidates")]
    return Question(
        row.text("id"), row.text("query"), row.texts("answers"),
        relevant=tuple(passage for passage, label in candidates if label),
        irrelevant=tuple(passage for passage, label in candidates if not label),
    )  # fmt: skip
