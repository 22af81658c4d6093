"""Judged questions from JSONL, gzipped where the name says so: what evaluation and the ranking gate read.

Two kinds of rows, which may be mixed: `{id, question, answers?, passage_id?}` for questions whose passages are to be
retrieved, `{id, query, answers?, candidates: [{id, title?, text, label, rank?}]}` for passages that are to be ranked.
More fields may be there.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import from_json

from service.errors import ConfigError
from service.types import JudgedQuestion, Passage

Row = TypeVar("Row", bound=BaseModel)
Id = Annotated[str, Field(min_length=1)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class QuestionRow(_Row):
    """`passage_id` is the document that holds the answer or, where there is none, the one that could have.

    `answerable` may say so; otherwise a question without answers has none.
    """

    id: Id
    question: Id
    answers: list[str] | None = None
    passage_id: str | None = None
    passage_ids: list[str] = []
    answerable: bool | None = None
    answer_sentence: str | None = None

    def judged(self) -> JudgedQuestion:
        documents = [self.passage_id, *self.passage_ids] if self.passage_id else self.passage_ids
        answers = None if self.answers is None else tuple(self.answers)
        if not answers and self.answer_sentence:
            answers = None  # answered, but with no short answer to compare with
        is_answerable = answers != () if self.answerable is None else self.answerable
        return JudgedQuestion(
            id=self.id,
            question=self.question,
            answers=answers if is_answerable else (),
            relevant=dict.fromkeys(documents, 1) if is_answerable else {},
            about=documents[0] if documents else None,
        )


class CandidateRow(_Row):
    """`label` above 0 is its grade of relevance; `rank` its place by the retriever, which otherwise is that here."""

    id: Id
    text: Id
    title: str | None = None
    label: Annotated[int, Field(ge=0)]
    rank: int | None = None


class RankingRow(_Row):
    id: Id
    query: Id
    answers: list[str] | None = None
    candidates: Annotated[list[CandidateRow], Field(min_length=1)]

    @field_validator("candidates")
    @classmethod
    def _are_distinct(cls, candidates: list[CandidateRow]) -> list[CandidateRow]:
        ids = [row.id for row in candidates]
        if again := next((id_ for number, id_ in enumerate(ids) if id_ in ids[:number]), None):
            raise ValueError(f"the id {again!r} comes twice")
        return candidates

    def judged(self) -> JudgedQuestion:
        places = [index if row.rank is None else row.rank for index, row in enumerate(self.candidates)]
        rows = [self.candidates[index] for index in sorted(range(len(places)), key=places.__getitem__)]
        return JudgedQuestion(
            id=self.id,
            question=self.query,
            answers=None if self.answers is None else tuple(self.answers),
            relevant={row.id: row.label for row in rows if row.label},
            candidates=tuple(Passage(row.id, row.text, row.title or "") for row in rows),
            about=next((row.id for row in rows if row.label), None),
        )


def read_judged(path: Path) -> list[JudgedQuestion]:
    """All rows of a file.

    Raises:
        ConfigError: `file:line: field: what` for the first bad row; or the file can't be read, or is empty.
    """
    questions: list[JudgedQuestion] = []
    lines_of: dict[str, str] = {}
    for where, line in numbered_lines(path):
        question = _judged(where, line)
        if question.id in lines_of:
            raise ConfigError(f"{where}: id: {question.id!r} was already used at {lines_of[question.id]}", field="id")
        lines_of[question.id] = where
        questions.append(question)
    if not questions:
        raise ConfigError(f"{path}: no row in this file")
    return questions


def _judged(where: str, line: bytes) -> JudgedQuestion:
    document = parse_object(where, line)
    if "candidates" in document:
        return checked_row(RankingRow, where, document).judged()
    return checked_row(QuestionRow, where, document).judged()


def numbered_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each line that is not blank, with `file:line`. Raises ConfigError."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", line
    except (OSError, EOFError, zlib.error) as exc:
        raise ConfigError(f"{path} can't be read: {getattr(exc, 'strerror', None) or exc}") from exc


def parse_object(where: str, line: bytes) -> Mapping[str, Any]:
    """Raises ConfigError where the line is no JSON object."""
    try:
        document = from_json(line)
    except ValueError as exc:
        raise ConfigError(f"{where}: not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: a row is an object, not {type(document).__name__}")
    return document


def checked_row(kind: type[Row], where: str, document: Mapping[str, Any]) -> Row:
    """Raises ConfigError with the field."""
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: {field}: {first['msg']}", field=field) from exc
