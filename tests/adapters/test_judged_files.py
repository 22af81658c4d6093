"""Judged questions from JSONL."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from service.adapters.judged_files import read_judged
from service.errors import ConfigError
from service.types import JudgedQuestion, Passage

CANDIDATES = [
    {"id": "b", "text": "second", "label": 1, "rank": 2},
    {"id": "a", "title": "A", "text": "first", "label": 0, "rank": 1, "score": 7.5},
]


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_question_is_relevant_to_its_passage(tmp_path: Path) -> None:
    row = {"id": "q", "question": "Who?", "answers": ["She"], "passage_id": "p", "source": "explorer"}
    assert read_judged(written(tmp_path / "q.jsonl", row)) == [JudgedQuestion("q", "Who?", ("She",), {"p": 1}, (), "p")]


@pytest.mark.parametrize("more", [{}, {"answerable": False}])
def test_question_without_an_answer_is_about_a_passage_that_is_not_relevant(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    row = {"id": "q", "question": "Who?", "answers": [], "passage_id": "p", **more}
    assert read_judged(written(tmp_path / "q.jsonl", row)) == [JudgedQuestion("q", "Who?", (), {}, (), "p")]


def test_question_that_only_a_sentence_answers_is_answerable(tmp_path: Path) -> None:
    row = {"id": "q", "question": "Who?", "answers": [], "answer_sentence": "She did.", "passage_id": "p"}
    assert read_judged(written(tmp_path / "q.jsonl", row))[0].answers is None
    assert read_judged(tmp_path / "q.jsonl")[0].relevant == {"p": 1}


def test_several_passages_may_be_relevant(tmp_path: Path) -> None:
    row = {"id": "q", "question": "Who?", "passage_id": "p", "passage_ids": ["p", "r"]}
    assert read_judged(written(tmp_path / "q.jsonl", row))[0].relevant == {"p": 1, "r": 1}


def test_candidates_come_in_the_retrievers_order(tmp_path: Path) -> None:
    found = read_judged(written(tmp_path / "r.jsonl", {"id": "q", "query": "Who?", "candidates": CANDIDATES}))
    passages = (Passage("a", "first", "A"), Passage("b", "second"))
    assert found == [JudgedQuestion("q", "Who?", None, {"b": 1}, passages, "b")]


def test_gzipped_file_and_blank_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress(b'\n{"id": "q", "question": "Who?"}\n\n'))
    assert [question.id for question in read_judged(path)] == ["q"]


GOOD = {"id": "q", "question": "Who?"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "q"}, ":2: question: Field required"),
        ({"id": 7, "question": "Who?"}, ":2: id: "),
        ({"id": "r", "question": "Who?", "answers": "She"}, ":2: answers: "),
        ({"id": "r", "query": "Who?", "candidates": []}, ":2: candidates: "),
        ({"id": "r", "query": "Who?", "candidates": [CANDIDATES[0]] * 2}, "the id 'b' comes twice"),
        ({"id": "r", "query": "Who?", "candidates": [{"id": "a", "text": "t"}]}, ":2: candidates.0.label: "),
        ({"id": "r", "query": "Who?", "candidates": [{"id": "a", "text": "t", "label": -1}]}, "candidates.0.label: "),
        (GOOD, ":2: id: 'q' was already used at "),
    ],
)
def test_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "rows.jsonl", GOOD, row)
    with pytest.raises(ConfigError) as caught:
        read_judged(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no row"), (b"{", "not JSON"), (b"[]", "a row is an object"), (b"\xff", "not JSON")],
)
def test_file_that_is_something_else_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_judged(path)


@pytest.mark.parametrize("name", ["none.jsonl", "broken.jsonl.gz"])
def test_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match=f"{name} can't be read"):
        read_judged(tmp_path / name)
