"""Questions from BEIR and TREC; draws and shuffles."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ConfigError
from service.evaluation.collections import Files, read_collection, sampled, shuffled
from service.types import JudgedQuestion, Passage

TEXTS = {"d1": Passage("d1", "first", "One"), "d2": Passage("d2", "second", "")}


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    jsonl(tmp_path / "corpus.jsonl", {"_id": "d1", "title": "One", "text": "first"}, {"_id": "d2", "text": "second"})
    jsonl(tmp_path / "queries.jsonl", *({"_id": f"q{n}", "text": f"question {n}"} for n in (1, 2, 3)))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t2\nq1\td2\t1\nq1\td1\t0\n")
    return tmp_path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "bm25.run"
    path.write_text("q1 Q0 d1 1 9.5 bm25\nq1 Q0 d2 2 7.5 bm25\nq2 Q0 d1 2 1.5 bm25\nq2 Q0 d2 1 3.5 bm25\n")
    return path


def test_beir_directory_has_the_judged_questions_in_their_order(beir: Path) -> None:
    assert read_collection(Files(beir)) == [
        JudgedQuestion("q1", "question 1", relevant={"d2": 1}),
        JudgedQuestion("q2", "question 2", relevant={"d1": 2}),
    ]


def test_run_gives_the_candidates_by_rank(beir: Path, run: Path) -> None:
    found = read_collection(Files(beir, run=run))
    assert [question.candidates for question in found] == [(TEXTS["d1"], TEXTS["d2"]), (TEXTS["d2"], TEXTS["d1"])]


def test_trec_topics_are_joined_with_their_qrels(tmp_path: Path, run: Path) -> None:
    (tmp_path / "topics.tsv").write_text("q1\tquestion 1\nq2\tquestion 2\n")
    (tmp_path / "qrels.txt").write_text("q1 0 d2 1\nq2 0 d2 0\n")
    corpus = jsonl(tmp_path / "c.jsonl", *({"id": p.id, "title": p.title, "text": p.text} for p in TEXTS.values()))
    found = read_collection(Files(tmp_path / "topics.tsv", qrels=tmp_path / "qrels.txt", run=run, corpus=corpus))
    assert found == [JudgedQuestion("q1", "question 1", relevant={"d2": 1}, candidates=tuple(TEXTS.values()))]


def test_jsonl_is_our_own_format(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"id": "q", "question": "Who?", "passage_id": "p"})
    assert [question.relevant for question in read_collection(Files(path))] == [{"p": 1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("queries.jsonl", '{"text": "q"}\n', "queries.jsonl:1: _id: "),
        ("queries.jsonl", '{"_id": "q9", "text": "q"}\n', "none of the 1 questions is judged"),
        ("corpus.jsonl", '{"_id": "d1"}\n', "corpus.jsonl:1: text: "),
        ("corpus.jsonl", '{"_id": "d1", "text": "t"}\n', "lacks the document 'd2'"),
        ("qrels/test.tsv", "q1 d1\n", "test.tsv:1: 2 columns"),
        ("qrels/test.tsv", "q1 d1 high\n", "test.tsv:1: score: 'high'"),
        ("bm25.run", "q1 Q0 d1 1 9.5\n", "bm25.run:1: 5 columns"),
        ("bm25.run", "q1 Q0 d1 first 9.5 x\n", "bm25.run:1: rank: 'first'"),
        ("bm25.run", "q7 Q0 d1 1 9.5 x\n", "nothing for the question 'q1'"),
    ],
)
def test_bad_file_is_named_with_line_and_field(beir: Path, run: Path, name: str, content: str, message: str) -> None:
    (beir / name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_collection(Files(beir, run=run))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("more", "message"), [({}, "--qrels"), ({"qrels": "qrels/test.tsv", "run": "bm25.run"}, "--corpus")]
)
def test_what_topics_need_is_asked_for(beir: Path, run: Path, more: dict[str, str], message: str) -> None:
    del run
    (beir / "topics.tsv").write_text("q1\tquestion 1\n")
    given_files: dict[str, Any] = {name: beir / file for name, file in more.items()}
    with pytest.raises(ConfigError, match=message):
        read_collection(replace(Files(beir / "topics.tsv"), **given_files))


@given(st.integers(0, 12), st.none() | st.integers(1, 15), st.integers(0, 3))
def test_sample_is_no_larger_than_wanted_and_in_order(count: int, limit: int | None, seed: int) -> None:
    questions = [JudgedQuestion(str(number), "q") for number in range(count)]
    found = sampled(questions, limit, seed)
    assert len(found) == (count if limit is None else min(limit, count))
    assert found == [question for question in questions if question in found]
    assert sampled(questions, limit, seed) == found


def test_shuffle_depends_on_its_key_alone() -> None:
    passages = [Passage(str(number), "t") for number in range(20)]
    assert shuffled(passages, 1, "q1") == shuffled(passages, 1, "q1")
    assert len({tuple(p.id for p in shuffled(passages, *key)) for key in [(1, "q1"), (1, "q2"), (2, "q1")]}) == 3
    assert sorted(shuffled(passages, 1, "q1"), key=passages.index) == passages
