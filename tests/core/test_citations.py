"""What is cited, and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.citations import cite
from service.types import Passage, RetrievedPassage, Score, ScoredPassage


def kept(*passages: Passage) -> list[ScoredPassage]:
    return [
        ScoredPassage(RetrievedPassage(passage, 1.0, rank), Score(0.9, 1.0), rank)
        for rank, passage in enumerate(passages, start=1)
    ]


def cited(answer: str, *texts: str) -> list[str]:
    """The texts that `answer` is cited from."""
    citations = cite(answer, kept(*(Passage(text, text) for text in texts)))
    return [id_ for citation in citations for id_ in citation.passage_ids]


def test_every_passage_with_the_words_is_cited_best_first() -> None:
    holders = ["It rises to 4,806 metres.", "4,806 metres is its height."]
    assert cited("4,806 metres", holders[0], "It is high.", holders[1]) == holders


def test_title_counts_as_the_passage() -> None:
    citations = cite("Mont Blanc", kept(Passage("p", "It is high.", "Mont Blanc")))
    assert citations[0].passage_ids == ("p",)


@pytest.mark.parametrize("answer", ["mont BLANC", "Mont Blanc.", " Mont  Blanc\n", "Mont\nBlanc ."])
def test_case_white_space_and_the_final_stop_do_not_matter(answer: str) -> None:
    assert cited(answer, "The top is Mont\n Blanc itself.") == ["The top is Mont\n Blanc itself."]


@pytest.mark.parametrize(
    ("answer", "text"), [("18", "in 1865"), ("art", "a party"), ("the Rhin", "the Rhine"), ("5", "4.56 or 45")]
)
def test_part_of_a_word_is_not_cited(answer: str, text: str) -> None:
    assert cited(answer, text) == []


@pytest.mark.parametrize("answer", ["C++", "a.b", "(sic)", "$5", "[1]", "50%"])
def test_answer_of_signs_is_not_read_as_a_pattern(answer: str) -> None:
    assert cited(answer, f"It says {answer} here.", "It says axb here.") == [f"It says {answer} here."]


@pytest.mark.threat("T14")
def test_answer_that_no_passage_holds_has_no_citation() -> None:
    assert cite("42 metres", kept(Passage("p", "It rises to 4,806 metres."))) == ()


@pytest.mark.parametrize("answer", ["", " ", ".", " \n. "])
def test_empty_answer_has_no_citation(answer: str) -> None:
    assert cite(answer, kept(Passage("p", "Some text. And more."))) == ()


@given(answer=st.text(max_size=20), words=st.lists(st.sampled_from(["a", "B", "1865", "é", "."]), max_size=6))
@pytest.mark.threat("T14")
def test_span_points_at_the_cited_words_of_the_answer(answer: str, words: list[str]) -> None:
    text = answer + " ".join(words)
    for citation in cite(text, kept(Passage("p", f"It says {text} here."))):
        assert text[citation.start : citation.end] == citation.text
        assert citation.text == citation.text.strip()
        assert citation.passage_ids == ("p",)
