"""Cache keys: equal keys mean equal results. Every part that can change a result is in its key."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from service.types import Passage, Query


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Makes the keys of one deployment.

    `checkpoint` is the served checkpoint's revision, `prompts` the id and digest of the prompt set, `index`
    the index version, `encoder` the query encoder's id and revision.
    """

    checkpoint: str
    prompts: str
    index: str
    encoder: str

    def embedding(self, question: str) -> str:
        return digest("embedding", self.encoder, question)

    def score(self, question: str, passage: Passage) -> str:
        return digest("score", self.checkpoint, self.prompts, question, passage.title, passage.text)

    def answer(self, query: Query) -> str:
        return digest(
            "answer", self.checkpoint, self.prompts, self.index, self.encoder, query.question,
            query.top_n, query.top_k, query.max_tokens, query.min_relevance, sorted_filters(query),
        )  # fmt: skip


def sorted_filters(query: Query) -> list[tuple[str, Any]]:
    return sorted(query.filters.items(), key=lambda item: item[0])


def digest(*parts: Any) -> str:
    """A short name of `parts`; JSON keeps ("ab", "c") apart from ("a", "bc")."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
