"""Exact match and F1, by the examples of SQuAD's script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evaluation.squad import exact_match, f1, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  a   cat,  an owl and THE dog ", "cat owl and dog"),
        ("Theatre", "theatre"),
        ("4,806 metres", "4806 metres"),
        ("", ""),
    ],
)
def test_case_punctuation_articles_and_space_do_not_count(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("given_", "answers", "em", "word_f1"),
    [
        ("the 4,806 metres.", ["4806 metres"], 1.0, 1.0),
        ("4,806", ["4,806 metres", "nothing"], 0.0, 2 / 3),
        ("about 4,806 metres high", ["4,806 metres", "metres"], 0.0, 2 / 3),
        ("blue", ["red"], 0.0, 0.0),
        ("the", ["a"], 1.0, 1.0),
        ("the", ["red"], 0.0, 0.0),
        ("red red", ["red"], 0.0, 2 / 3),
        ("red", [], 0.0, 0.0),
    ],
)
def test_best_of_the_right_answers_counts(given_: str, answers: list[str], em: float, word_f1: float) -> None:
    assert exact_match(given_, answers) == em
    assert f1(given_, answers) == pytest.approx(word_f1)


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=4))
def test_exact_match_is_the_best_f1(given_: str, answers: list[str]) -> None:
    value = f1(given_, answers)
    assert 0.0 <= value <= 1.0
    assert value >= exact_match(given_, answers)


@given(st.text(max_size=30), st.text(max_size=30))
def test_f1_is_the_same_both_ways(one: str, other: str) -> None:
    assert f1(one, [other]) == pytest.approx(f1(other, [one]))
