"""The 4-gram rule: more than half is relevant, less than a tenth is not, between is not used."""

from hypothesis import given
from hypothesis import strategies as st

from service.types import Passage
from training.records import Question
from training.relevance import chunked, judged, recall

WORDS = [f"w{number}" for number in range(13)]
ANSWER = " ".join(WORDS)  # 13 words: ten 4-grams


def passage_with(num_words: int) -> str:
    return " ".join(WORDS[:num_words]) + " and nothing else"


def test_recall_counts_four_grams() -> None:
    assert recall(ANSWER, passage_with(13)) == 1.0
    assert recall(ANSWER, passage_with(8)) == 0.5
    assert recall(ANSWER, passage_with(4)) == 0.1
    assert recall(ANSWER, passage_with(3)) == 0.0


def test_short_answers_are_one_gram() -> None:
    assert recall("Mount Karvel", "They climbed mount Karvel.") == 1.0
    assert recall("Mount Karvel", "Karvel is a mount.") == 0.0
    assert recall("...", "anything") == 0.0


def test_exactly_half_and_exactly_a_tenth_are_not_used() -> None:
    documents = tuple(Passage(str(count), passage_with(count)) for count in (13, 9, 8, 4, 3))
    found = judged(Question("q", "?", (ANSWER,), relevant=documents))
    assert [passage.id for passage in found.relevant] == ["13#0", "9#0"]
    assert [passage.id for passage in found.irrelevant] == ["3#0"]


def test_documents_are_cut_at_150_words() -> None:
    chunks = chunked([Passage("d", " ".join(f"Word{number}." for number in range(400)))])
    assert len(chunks) == 3
    assert max(len(chunk.text.split()) for chunk in chunks) <= 150


@given(st.lists(st.sampled_from("abcde"), max_size=30), st.lists(st.sampled_from("abcde"), max_size=30))
def test_recall_is_a_share_and_one_of_a_text_that_contains_the_answer(answer: list[str], rest: list[str]) -> None:
    text = " ".join(answer)
    assert 0.0 <= recall(text, " ".join(rest)) <= 1.0
    assert recall(text, f"x {text} y") == (1.0 if answer else 0.0)
