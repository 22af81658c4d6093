"""When two answers are the same, and when a passage holds one."""

import re
import string
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case without punctuation, articles and extra white space: SQuAD's official normalisation."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def is_exact(given: str, answers: Iterable[str]) -> bool:
    return normalised(given) in {normalised(answer) for answer in answers}


def holds_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether any answer stands in `text` as whole words, both normalised. An answer that is only articles: no."""
    padded = f" {normalised(text)} "
    return any(f" {answer} " in padded for answer in map(normalised, answers) if answer)
