"""Long documents become passages of about a hundred words, cut between sentences where possible."""

from semantic_text_splitter import TextSplitter


class Chunker:
    """Splits text into chunks of at most `max_words` words.

    A hundred words is the passage size of the Wikipedia dump that the paper retrieves from. The splitter
    cuts at the highest boundary that fits: paragraph, then sentence, then word.
    """

    def __init__(self, max_words: int) -> None:
        self._max_words = max_words
        self._splitter = TextSplitter.from_callback(count_words, max_words)

    def chunks(self, text: str) -> list[str]:
        """The chunks in order; a text that fits is one chunk, as it is."""
        if count_words(text) <= self._max_words:
            return [text.strip()]
        return list(self._splitter.chunks(text))


def count_words(text: str) -> int:
    return len(text.split())


def passage_id(document_id: str, number: int, count: int) -> str:
    """The document's id, with `#number` (from 0) where the document made several passages."""
    return document_id if count == 1 else f"{document_id}#{number}"
