import pytest

from training.answers import holds_answer, is_exact, normalised


def test_normalisation_is_squads() -> None:
    assert normalised("The  Arden Bridge, (a bridge).") == "arden bridge bridge"


def test_exact_ignores_case_articles_and_punctuation() -> None:
    assert is_exact("the 42 Metres.", ["42 metres"])
    assert not is_exact("42 metre", ["42 metres"])


@pytest.mark.parametrize(
    ("text", "answer", "holds"),
    [("It is 1,931 years old.", "1931", True), ("In 19310 it fell.", "1931", False), ("The end.", "the", False)],
)
def test_an_answer_is_held_as_whole_words(text: str, answer: str, holds: bool) -> None:
    assert holds_answer(text, [answer]) is holds
