"""Exact match and F1 of short answers, as SQuAD's official script has them (arXiv 1606.05250, section 6.1)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, answers: Sequence[str]) -> float:
    """1.0 where it equals one of the right answers once normalised, else 0.0."""
    return float(any(normalise(given) == normalise(answer) for answer in answers))


def f1(given: str, answers: Sequence[str]) -> float:
    """The best harmonic mean of word precision and recall with one of the right answers."""
    return max((_f1(normalise(given).split(), normalise(answer).split()) for answer in answers), default=0.0)


def _f1(given: Sequence[str], answer: Sequence[str]) -> float:
    if not given or not answer:
        return float(given == answer)
    num_same = sum((Counter(given) & Counter(answer)).values())
    return 2 * num_same / (len(given) + len(answer))
