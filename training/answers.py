"""When a passage holds an answer. When two answers are the same is `service.evaluation.squad`'s to say."""

from collections.abc import Iterable

from service.evaluation.squad import normalise


def holds_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether any answer stands in `text` as whole words, both normalised. An answer that is only articles: no."""
    padded = f" {normalise(text)} "
    return any(f" {answer} " in padded for answer in map(normalise, answers) if answer)
