"""What is cited, and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.citations import Cited, cite, holds
from service.types import Passage, RetrievedPassage, Score, ScoredPassage


def kept(*passages: Passage) -> list[ScoredPassage]:
    return [
        ScoredPassage(RetrievedPassage(passage, 1.0, rank), Score(0.9, 1.0), rank)
        for rank, passage in enumerate(passages, start=1)
    ]


def cited(answer: str, *texts: str) -> list[str]:
    """The texts that `answer` is cited from."""
    citations = cite(answer, kept(*(Passage(text, text) for text in texts))).citations
    return [id_ for citation in citations for id_ in citation.passage_ids]


def test_every_passage_with_the_words_is_cited_best_first() -> None:
    holders = ["It rises to 4,806 metres.", "4,806 metres is its height."]
    assert cited("4,806 metres", holders[0], "It is high.", holders[1]) == holders


def test_title_counts_as_the_passage() -> None:
    citations = cite("Mont Blanc", kept(Passage("p", "It is high.", "Mont Blanc"))).citations
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
    assert cite("42 metres", kept(Passage("p", "It rises to 4,806 metres."))) == Cited((), 1)


@pytest.mark.parametrize("answer", ["", " ", ".", " \n. "])
def test_empty_answer_has_no_citation(answer: str) -> None:
    assert cite(answer, kept(Passage("p", "Some text. And more."))) == Cited((), 0)


@given(answer=st.text(max_size=20), words=st.lists(st.sampled_from(["a", "B", "1865", "é", "."]), max_size=6))
@pytest.mark.threat("T14")
def test_span_points_at_the_cited_words_of_the_answer(answer: str, words: list[str]) -> None:
    text = answer + " ".join(words)
    for citation in cite(text, kept(Passage("p", f"It says {text} here."))).citations:
        assert text[citation.start : citation.end] == citation.text
        assert citation.text == citation.text.strip()
        assert citation.passage_ids == ("p",)


ALPS = kept(
    Passage("a", "Mont Blanc rises to 4,806 metres. Snow lies there all year."),
    Passage("b", "Jacques Balmat climbed it first. Mont Blanc rises to 4,806 metres."),
    Passage("c", "The Rhine is a river."),
)


def spans(answer: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(citation.text, citation.passage_ids) for citation in cite(answer, ALPS).citations]


def test_answer_that_stands_nowhere_as_a_whole_is_cited_sentence_by_sentence() -> None:
    answer = "Mont Blanc rises to 4,806 metres. Jacques Balmat climbed it first.  It is in Asia!"
    assert spans(answer) == [
        ("Mont Blanc rises to 4,806 metres", ("a", "b")), ("Jacques Balmat climbed it first", ("b",)),
    ]  # fmt: skip
    assert cite(answer, ALPS).num_dropped == 1


@pytest.mark.parametrize(
    ("answer", "num_dropped"),
    [
        ("4,806 metres [1].", 0),
        ("4,806 metres. [1]", 0),
        ("4,806 metres [1][2]", 0),
        ("4,806 metres [1, 2]", 0),
        ("4,806 metres [3]", 1),
        ("4,806 metres [1][3, 7]", 2),
        ("4,806 metres [0]", 1),
        ("4,806 metres [999999999999999999999]", 1),
    ],
)
def test_numbers_behind_a_sentence_are_claims_that_are_checked(answer: str, num_dropped: int) -> None:
    assert spans(answer) == [("4,806 metres", ("a", "b"))]
    assert cite(answer, ALPS).num_dropped == num_dropped


@pytest.mark.parametrize(
    ("answer", "num_dropped"),
    [("It is in Asia [1].", 1), ("It is in Asia [1, 2]. So it is.", 3), ("[2]", 0), ("[x]", 1)],
)
def test_words_that_stand_nowhere_are_cited_from_nowhere_whatever_the_model_claims(
    answer: str, num_dropped: int
) -> None:
    assert cite(answer, ALPS) == Cited((), num_dropped)


def test_numbers_are_places_in_the_prompt_and_sources_come_best_ranked_first() -> None:
    context = ALPS[::-1]
    assert cite("Jacques Balmat climbed it first [2].", context).num_dropped == 0
    assert cite("Jacques Balmat climbed it first [1].", context).num_dropped == 1
    assert cite("Mont Blanc rises to 4,806 metres", context).citations[0].passage_ids == ("a", "b")


PARTS = st.sampled_from(
    [
        "Mont Blanc",
        " ",
        ". ",
        "4,806 metres",
        "[1]",
        "[2, 3]",
        "rises to",
        "The Rhine is a river",
        "?",
        "\n",
        "[",
        "Asia",
    ]
)


@given(st.lists(PARTS, max_size=12))
def test_every_citation_verifies_whatever_is_answered(parts: list[str]) -> None:
    answer = "".join(parts)
    by_id = {one.passage.id: one for one in ALPS}
    last = 0
    for citation in cite(answer, ALPS).citations:
        assert last <= citation.start < citation.end
        assert answer[citation.start : citation.end] == citation.text
        assert citation.passage_ids
        assert all(holds(by_id[id_], citation.text) for id_ in citation.passage_ids)
        last = citation.end


def test_long_answer_of_signs_takes_no_time() -> None:
    for sign in (" ", "[", "[1", "[1]", ". ", "a "):
        cite(sign * 5000 + "end", ALPS)
