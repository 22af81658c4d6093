"""Cache keys: equal keys mean equal results. Every part that can change a result is in its key."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.types import Passage, Query

DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Makes the keys of one deployment.

    `checkpoint` is the served checkpoint's revision, `prompts` the id and digest of the prompt set, `index`
    the index version, `encoder` the query encoder's id and revision, `gate` what decides whether reranking is on.
    """

    checkpoint: str
    prompts: str
    index: str
    encoder: str
    gate: str = ""

    def verdict(self, probe: str) -> str:
        """Of the ranking gate on the probe with this digest."""
        return digest("verdict", self.checkpoint, self.prompts, self.index, self.encoder, probe)

    def embedding(self, question: str) -> str:
        return digest("embedding", self.encoder, question)

    def score(self, question: str, passage: Passage) -> str:
        return self.scores(question, [passage])[0]

    def scores(self, question: str, passages: Sequence[Passage]) -> list[str]:
        """The key of each pair, in the order of `passages`. What they have in common is hashed once."""
        pairs = hashlib.blake2b(
            framed(self.checkpoint, self.prompts, question), digest_size=DIGEST_BYTES, person=b"score"
        )
        keys = []
        for passage in passages:
            pair = pairs.copy()
            pair.update(framed(passage.title, passage.text))
            keys.append(pair.hexdigest())
        return keys

    @staticmethod
    def passage(passage: Passage) -> str:
        """The identity of a passage as the checkpoint sees it: equal titles and texts are one passage."""
        return hashlib.blake2b(
            framed(passage.title, passage.text), digest_size=DIGEST_BYTES, person=b"passage"
        ).hexdigest()

    def answer(self, query: Query) -> str:
        return digest(
            "answer", self.checkpoint, self.prompts, self.index, self.encoder, self.gate, query.question,
            query.top_n, query.top_k, query.max_tokens, query.min_relevance, repr(query.filters), query.context_order,
            _given(query), [[turn.role, turn.text] for turn in query.history],
        )  # fmt: skip


def _given(query: Query) -> list[Any] | None:
    return None if query.passages is None else [[p.id, p.title, p.text, dict(p.metadata)] for p in query.passages]


def digest(*parts: Any) -> str:
    """A short name of `parts`; JSON keeps ("ab", "c") apart from ("a", "bc")."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()


def framed(*fields: str) -> bytes:
    """`fields` behind their lengths in characters, so that ("ab", "c") stays apart from ("a", "bc").

    Half of a surrogate pair, which JSON lets in, is a character like any other.
    """
    return "".join([f"{len(field)}:{field}" for field in fields]).encode(errors="surrogatepass")
