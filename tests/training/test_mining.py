"""Negatives are near, never relevant, never hold the answer, and the same every time."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.types import Passage
from training import mining, readers, toy
from training.answers import holds_answer
from training.config import Mining
from training.records import Question, Rows

CORPUS = tuple(Passage(str(number), text) for number, text in enumerate([
    "The Arden Bridge was opened in 1931.", "The Arden Bridge is a bridge of steel.", "Arden has a bridge and a mill.",
    "the arden bridge was opened in 1931", "A chronicle of Arden names 1931.", "Whales sing.",
]))  # fmt: skip
QUESTION = Question("q", "When was the Arden Bridge opened?", ("1931",), relevant=CORPUS[:1])


def bm25(cache: Path) -> Mining:
    return Mining(retrievers=["bm25"], depth=6, keep=5, cache=cache)


def test_relevant_equal_and_answering_passages_are_removed() -> None:
    assert [passage.id for passage in mining.negatives(QUESTION, CORPUS)] == ["1", "2", "5"]


def test_a_title_that_holds_the_answer_counts() -> None:
    assert not mining.negatives(QUESTION, [Passage("t", "A bridge.", "1931")])


def test_the_nearest_come_first(tmp_path: Path) -> None:
    found = mining.mine(Rows(questions=(QUESTION,), corpus=CORPUS), bm25(tmp_path))
    assert found == {"q": ["1", "2"]}  # what shares no word with the question is no hard negative


def test_both_retrievers_are_merged_rank_by_rank() -> None:
    a, b, c, d = CORPUS[:4]
    assert mining.merged([[a, b, c], [b, d]]) == [a, b, d, c]


@given(st.lists(st.lists(st.integers(0, 5), unique=True), max_size=3))
def test_merging_keeps_each_passage_once(rankings: list[list[int]]) -> None:
    merged = mining.merged([[CORPUS[number] for number in ranking] for ranking in rankings])
    assert sorted(int(passage.id) for passage in merged) == sorted({n for ranking in rankings for n in ranking})


def test_it_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(questions=(QUESTION,), corpus=CORPUS)
    first = mining.with_negatives(rows, bm25(tmp_path))
    monkeypatch.setattr(mining, "mine", lambda *_: pytest.fail("mined again"))
    assert mining.with_negatives(rows, bm25(tmp_path)) == first
    assert [passage.id for passage in first.questions[0].irrelevant] == ["1", "2"]


def test_another_corpus_is_mined_again(tmp_path: Path) -> None:
    mining.with_negatives(Rows(questions=(QUESTION,), corpus=CORPUS), bm25(tmp_path))
    mining.with_negatives(Rows(questions=(QUESTION,), corpus=CORPUS[:3]), bm25(tmp_path))
    assert len(list(tmp_path.glob("negatives-*.jsonl"))) == 2


def test_own_index_and_bm25_together(data: Path, tmp_path: Path) -> None:
    """With the service's real encoder and FAISS."""
    rows = readers.read(toy.sources()["squad"], data)
    rows = Rows(questions=rows.questions[:8], corpus=rows.corpus)
    settings = Mining(depth=6, keep=4, cache=tmp_path)
    mined = mining.with_negatives(rows, settings)
    for question in mined.questions:
        assert 1 <= len(question.irrelevant) <= 5
        assert not {p.id for p in question.irrelevant} & {p.id for p in question.relevant}
        assert not any(holds_answer(p.text, question.answers) for p in question.irrelevant)
    assert mining.mine(rows, settings) == mining.mine(rows, settings)
