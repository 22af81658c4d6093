import pytest

from training.answers import holds_answer


@pytest.mark.parametrize(
    ("text", "answer", "holds"),
    [
        ("It is 1,931 years old.", "1931", True),
        ("The  Arden Bridge, of steel.", "arden bridge", True),
        ("In 19310 it fell.", "1931", False),
        ("The end.", "the", False),
    ],
)
def test_an_answer_is_held_as_whole_words(text: str, answer: str, holds: bool) -> None:
    assert holds_answer(text, [answer]) is holds
