"""Judged questions from the usual formats: our JSONL, BEIR directories, TREC files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.adapters.judged_files import checked_row, numbered_lines, parse_object, read_judged
from service.errors import ConfigError
from service.types import JudgedQuestion, Passage

Id = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Files:
    """What to read: a JSONL file, a BEIR directory, or TREC topics (`.tsv`) with `qrels`.

    `run` holds each question's candidates by document id; `corpus` their texts, where the source has none.
    """

    source: Path
    qrels: Path | None = None
    run: Path | None = None
    corpus: Path | None = None
    split: str = "test"


class _BeirRow(BaseModel):
    """BEIR's corpus and queries; our own corpora are read as well."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    id: Id = Field(alias="_id")
    text: str
    title: str | None = None


def read_collection(files: Files) -> list[JudgedQuestion]:
    """Raises ConfigError with file, line and field of the first bad row."""
    questions = _read_questions(files)
    return questions if files.run is None else with_candidates(questions, read_run(files.run), _read_texts(files))


def _read_questions(files: Files) -> list[JudgedQuestion]:
    if files.source.is_dir():
        return _read_beir(files)
    return _read_trec(files) if files.source.suffix == ".tsv" else read_judged(files.source)


def _read_beir(files: Files) -> list[JudgedQuestion]:
    queries = {row.id: row.text for row in _beir_rows(files.source / "queries.jsonl")}
    relevant = read_qrels(files.qrels or files.source / "qrels" / f"{files.split}.tsv")
    return _joined(queries, relevant, files.source / "queries.jsonl")


def _read_trec(files: Files) -> list[JudgedQuestion]:
    if files.qrels is None:
        raise ConfigError(f"{files.source} are topics: give their judgements with --qrels", field="qrels")
    queries: dict[str, str] = {}
    for where, line in numbered_lines(files.source):
        id_, tab, text = line.decode("utf-8", "replace").rstrip("\r\n").partition("\t")
        if not tab or not text.strip():
            raise ConfigError(f"{where}: question: a row is an id, a tab and a question", field="question")
        queries[id_] = text
    return _joined(queries, read_qrels(files.qrels), files.source)


def _joined(queries: Mapping[str, str], relevant: Mapping[str, Mapping[str, int]], where: Path) -> list[JudgedQuestion]:
    """Only what is judged is asked, in the order of the questions."""
    questions = [
        JudgedQuestion(id_, text, relevant=dict(relevant[id_])) for id_, text in queries.items() if relevant.get(id_)
    ]
    if not questions:
        raise ConfigError(f"{where}: none of the {len(queries)} questions is judged by the qrels")
    return questions


def _beir_rows(path: Path) -> Iterator[_BeirRow]:
    for where, line in numbered_lines(path):
        yield checked_row(_BeirRow, where, parse_object(where, line))


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Grades above 0 by question and document: TREC's four columns, or BEIR's three with a header."""
    found: dict[str, dict[str, int]] = {}
    for where, line in numbered_lines(path):
        parts = line.decode("utf-8", "replace").split()
        if parts[:3] == ["query-id", "corpus-id", "score"]:
            continue
        if len(parts) not in (3, 4):
            raise ConfigError(f"{where}: {len(parts)} columns, not 3 (BEIR) or 4 (TREC)")
        grade = _whole_number(where, "score", parts[-1])
        if grade > 0:
            found.setdefault(parts[0], {})[parts[-2]] = grade
    return found


def read_run(path: Path) -> dict[str, list[str]]:
    """Document ids by question, best first: TREC's `question Q0 document rank score tag`, by rank."""
    found: dict[str, list[tuple[int, str]]] = {}
    for where, line in numbered_lines(path):
        parts = line.decode("utf-8", "replace").split()
        if len(parts) != 6:
            raise ConfigError(f"{where}: {len(parts)} columns, a run has 6")
        found.setdefault(parts[0], []).append((_whole_number(where, "rank", parts[3]), parts[2]))
    return {query: [document for _, document in sorted(ranked)] for query, ranked in found.items()}


def _whole_number(where: str, field: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as exc:
        raise ConfigError(f"{where}: {field}: {text!r} is no whole number", field=field) from exc


def _read_texts(files: Files) -> dict[str, Passage]:
    corpus = files.corpus or (files.source / "corpus.jsonl" if files.source.is_dir() else None)
    if corpus is None:
        raise ConfigError(f"{files.run} names documents: give their texts with --corpus", field="corpus")
    passages: dict[str, Passage] = {}
    for where, line in numbered_lines(corpus):
        document = dict(parse_object(where, line))
        row = checked_row(_BeirRow, where, {"_id": document.get("_id", document.get("id")), **document})
        passages[row.id] = Passage(row.id, row.text, row.title or "")
    return passages


def with_candidates(
    questions: Sequence[JudgedQuestion], run: Mapping[str, Sequence[str]], texts: Mapping[str, Passage]
) -> list[JudgedQuestion]:
    """The same questions with what the run has for them.

    Raises:
        ConfigError: the run lacks a question, or the corpus a document.
    """
    found = []
    for question in questions:
        if question.id not in run:
            raise ConfigError(f"the run has nothing for the question {question.id!r}", field="run")
        missing = next((document for document in run[question.id] if document not in texts), None)
        if missing is not None:
            raise ConfigError(f"the corpus lacks the document {missing!r} of the run", field="corpus")
        found.append(replace(question, candidates=tuple(texts[document] for document in run[question.id])))
    return found


def sampled(questions: Sequence[JudgedQuestion], limit: int | None, seed: int) -> list[JudgedQuestion]:
    """At most `limit` of them, drawn at random and in their own order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    return [questions[index] for index in sorted(Random(seed).sample(range(len(questions)), limit))]


def shuffled(passages: Sequence[Passage], *key: object) -> list[Passage]:
    """In an order that only `key` decides, so that leaving passages as they are given gains nothing."""
    mixed = list(passages)
    Random(repr(key)).shuffle(mixed)
    return mixed
