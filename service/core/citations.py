"""Which passages hold the words of an answer, checked word for word; what can't be verified is not claimed.

Cited words stand in a passage if they stand in its title or text as they are, but for case and white space, and end
where words end there ("18" doesn't stand in "1865").
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from service.types import Citation, ScoredPassage

# Up to the end of a sentence, with the passage numbers that a model may put behind it.
_SENTENCE: Final = re.compile(r"\S.*?(?:[.!?](?:\s?\[\d+(?:, ?\d+)*\])*(?=\s|$)|$)", re.DOTALL)
_NUMBERS: Final = re.compile(r"\[(\d+(?:, ?\d+)*)\]")


@dataclass(frozen=True, slots=True)
class Cited:
    """The citations that were verified, and how many claims were not: nothing is shown of these."""

    citations: tuple[Citation, ...]
    num_dropped: int


@dataclass(frozen=True, slots=True)
class _Claim:
    """Characters [start, end) of the answer, which come from the context; from these passages, says the model."""

    start: int
    end: int
    numbers: frozenset[int] = frozenset()


def cite(answer: str, context: Sequence[ScoredPassage]) -> Cited:
    """Cite every passage of the context in which the answer stands, or sentence by sentence if it stands in none.

    `context` is in the prompt's order. A sentence may end in numbers of its passages, `[2]` or `[1, 3]`; these are no
    part of the words. Each sentence that stands nowhere, and each number whose passage doesn't hold its sentence, is
    dropped and counted. Sources are best-ranked first.
    """
    start, end = _stripped(answer, 0, len(answer))
    if start == end:
        return Cited((), 0)
    if whole := _sources(answer[start:end], context):
        return Cited((Citation(start, end, answer[start:end], whole),), 0)
    citations, num_dropped = [], 0
    for claim in _claims(answer):
        text = answer[claim.start : claim.end]
        sources = _sources(text, context)
        if sources:
            citations.append(Citation(claim.start, claim.end, text, sources))
        num_false = sum(not _names_one_of(number, context, sources) for number in claim.numbers)
        num_dropped += num_false if sources else max(num_false, 1)
    return Cited(tuple(citations), num_dropped)


def holds(passage: ScoredPassage, text: str) -> bool:
    """Whether the words stand in the passage."""
    return _is_held(_whole_words(text), passage)


def _sources(text: str, context: Sequence[ScoredPassage]) -> tuple[str, ...]:
    pattern = _whole_words(text)
    return tuple(held.passage.id for held in sorted(context, key=lambda held: held.rank) if _is_held(pattern, held))


def _is_held(pattern: re.Pattern[str], scored: ScoredPassage) -> bool:
    return pattern.search(f"{scored.passage.title}. {scored.passage.text}") is not None


def _names_one_of(number: int, context: Sequence[ScoredPassage], ids: Sequence[str]) -> bool:
    return 1 <= number <= len(context) and context[number - 1].passage.id in ids


def _claims(answer: str) -> Iterator[_Claim]:
    """The sentences, without what is behind their last word; none without a word."""
    for sentence in _SENTENCE.finditer(answer):
        start, end = _stripped(answer, *sentence.span())
        numbers: set[int] = set()
        while last := _last_numbers(answer, start, end):
            numbers.update(int(number) for number in last[1].split(","))
            start, end = _stripped(answer, start, last.start())
        if start < end:
            yield _Claim(start, end, frozenset(numbers))


def _last_numbers(answer: str, start: int, end: int) -> re.Match[str] | None:
    bracket = answer.rfind("[", start, end)
    return _NUMBERS.fullmatch(answer, bracket, end) if bracket >= 0 else None


def _stripped(answer: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) without surrounding white space and final full stop."""
    text = answer[start:end]
    first = start + len(text) - len(text.lstrip())
    return first, max(first, start + len(text.rstrip().removesuffix(".").rstrip()))


def _whole_words(text: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in text.split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
