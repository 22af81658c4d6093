"""Documents become passages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.chunking import Chunker, count_words, passage_id

SENTENCES = [f"Sentence {number} has exactly six words." for number in range(1, 21)]


@settings(max_examples=50)
@given(st.text(st.characters(categories=["L", "N", "P", "Zs"], include_characters="\n"), max_size=200))
def test_chunks_are_short_enough_and_lose_no_word(text: str) -> None:
    chunks = Chunker(7).chunks(text)
    assert all(count_words(chunk) <= 7 for chunk in chunks)
    assert " ".join(chunks).split() == text.split() or "".join("".join(chunks).split()) == "".join(text.split())


def test_text_that_fits_is_one_chunk_as_it_is() -> None:
    assert Chunker(5).chunks("  One\n\ntwo, three  four. ") == ["One\n\ntwo, three  four."]


def test_long_text_is_cut_between_sentences() -> None:
    chunks = Chunker(20).chunks(" ".join(SENTENCES))
    assert len(chunks) == 7
    assert all(chunk.startswith("Sentence") and chunk.endswith("words.") for chunk in chunks)


def test_paragraphs_are_kept_whole_where_they_fit() -> None:
    paragraphs = [" ".join(SENTENCES[:2]), " ".join(SENTENCES[2:4])]
    assert Chunker(12).chunks("\n\n".join(paragraphs)) == paragraphs


def test_sentence_longer_than_a_chunk_is_cut_between_words() -> None:
    words = [f"word{number}" for number in range(25)]
    chunks = Chunker(10).chunks(" ".join(words))
    assert " ".join(chunks).split() == words
    assert max(map(count_words, chunks)) == 10


@pytest.mark.parametrize(("count", "ids"), [(1, ["doc"]), (3, ["doc#0", "doc#1", "doc#2"])])
def test_passages_of_a_cut_document_are_numbered(count: int, ids: list[str]) -> None:
    assert [passage_id("doc", number, count) for number in range(count)] == ids
