"""Which chunks of a document are relevant to a turn of a conversation (arXiv 2407.02485, section 4.2).

Documents are cut into chunks of 150 words; a chunk is relevant if it holds more than half of the answer's 4-grams and
irrelevant if it holds less than a tenth. What lies between is not used.
"""

import re
from collections.abc import Sequence

from service.core.chunking import Chunker
from service.types import Passage
from training.records import Question, distinct

MAX_WORDS = 150
NGRAM = 4
RELEVANT_ABOVE, IRRELEVANT_BELOW = 0.5, 0.1
_WORD = re.compile(r"\w+")


def ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """Runs of `size` words of `text`, case folded; of a shorter text the one run of all its words."""
    words = _WORD.findall(text.casefold())
    size = min(size, len(words))
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)} if words else set()


def recall(answer: str, passage: str, size: int = NGRAM) -> float:
    """The share of the answer's n-grams that the passage has, in [0, 1]; 0 for an answer without words."""
    wanted = ngrams(answer, size)
    if not wanted:
        return 0.0
    return len(wanted & ngrams(passage, len(next(iter(wanted))))) / len(wanted)


def chunked(passages: Sequence[Passage], max_words: int = MAX_WORDS) -> tuple[Passage, ...]:
    """Chunks of all passages in order, ids with `#number`."""
    chunker = Chunker(max_words)
    return tuple(
        Passage(f"{passage.id}#{number}", text, passage.title)
        for passage in passages
        for number, text in enumerate(chunker.chunks(passage.text))
    )


def judged(question: Question) -> Question:
    """The same question with its documents (`relevant`) cut and told apart by the 4-grams of its first answer."""
    answer = question.answers[0] if question.answers else ""
    recalls = [(chunk, recall(answer, chunk.text)) for chunk in chunked(question.relevant)]
    return Question(
        question.id, question.text, question.answers,
        relevant=tuple(chunk for chunk, share in recalls if share > RELEVANT_ABOVE),
        irrelevant=distinct([*(chunk for chunk, share in recalls if share < IRRELEVANT_BELOW), *question.irrelevant]),
        history=question.history,
        is_answerable=question.is_answerable,
    )  # fmt: skip
