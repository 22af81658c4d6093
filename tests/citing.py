"""Whether citations hold, looked up in another way than the service does."""

import re

from rankrag import Answer, Citation


def unfounded(answer: Answer) -> list[Citation]:
    """Citations that aren't of the answer's own words, or whose words some source doesn't hold, or without any."""
    texts = {passage.id: f"{passage.title}. {passage.text}" for passage in answer.passages if passage.in_context}
    return [
        citation
        for citation in answer.citations
        if answer.text[citation.start : citation.end] != citation.text
        or not citation.source_ids
        or not _words(citation.text)
        or not all(_has_in_a_row(texts.get(source, ""), citation.text) for source in citation.source_ids)
    ]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _has_in_a_row(text: str, cited: str) -> bool:
    all_, some = _words(text), _words(cited)
    return any(all_[at : at + len(some)] == some for at in range(len(all_) - len(some) + 1))
