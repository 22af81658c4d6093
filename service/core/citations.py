"""Which kept passages hold the words of an answer."""

import re
from collections.abc import Sequence

from service.types import Citation, ScoredPassage


def cite(answer: str, passages: Sequence[ScoredPassage]) -> tuple[Citation, ...]:
    """Cite every kept passage in which the answer stands word for word; best-ranked first.

    Case and white space don't matter, word boundaries do ("18" is not cited from "1865"). An answer that
    stands in no passage gets no citation: what can't be verified is not claimed.
    """
    start, end = _stripped_span(answer)
    if start == end:
        return ()
    pattern = _whole_words(answer[start:end])
    holders = tuple(p.passage.id for p in passages if pattern.search(f"{p.passage.title}. {p.passage.text}"))
    return (Citation(start, end, answer[start:end], holders),) if holders else ()


def _stripped_span(answer: str) -> tuple[int, int]:
    """The answer without surrounding white space and final full stop."""
    start = len(answer) - len(answer.lstrip())
    return start, max(start, len(answer.rstrip().removesuffix(".").rstrip()))


def _whole_words(text: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in text.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
