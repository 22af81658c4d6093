"""What callers ask while things break: a seeded mix over the demo's questions and passages. Pure."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEADLINE_S = 3.0
NUM_QUESTIONS, NUM_DOCUMENTS = 40, 4

# Of each kind of request. Those with `fresh` read no cache and go through to the engine.
WEIGHTS = {"rerank": 42, "rerank fresh": 6, "answer": 32, "answer fresh": 3, "stream": 14, "stream fresh": 3}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `texts` are the documents of a /rerank, in order."""

    kind: str
    path: str
    body: Mapping[str, Any]
    question: str
    texts: tuple[str, ...] = ()

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def is_fresh(self) -> bool:
        return self.body["cache"] is False


@dataclass(frozen=True, slots=True)
class Pool:
    """Questions with the documents that go with each."""

    documents: Mapping[str, tuple[str, ...]]

    def draws(self, rng: random.Random) -> Iterator[Ask]:
        """Endless."""
        questions, kinds = list(self.documents), list(WEIGHTS)
        while True:
            (kind,) = rng.choices(kinds, [*WEIGHTS.values()])
            yield self.ask(kind, rng.choice(questions))

    def each(self) -> Iterator[Ask]:
        """Everything that caches can hold, once."""
        for question in self.documents:
            yield self.ask("rerank", question)
            yield self.ask("answer", question)

    def ask(self, kind: str, question: str) -> Ask:
        route, _, fresh = kind.partition(" ")
        common = {"cache": not fresh, "deadline_ms": round(1000 * DEADLINE_S)}
        if route == "rerank":
            texts = self.documents[question][: 2 if fresh else None]
            return Ask(kind, "/rerank", {"query": question, "documents": texts, **common}, question, texts)
        body = {"question": question, "top_n": NUM_DOCUMENTS, "top_k": NUM_DOCUMENTS, "max_tokens": 8, **common}
        return Ask(kind, "/answer", {**body, "stream": route == "stream"}, question)


def demo_pool(root: Path, rng: random.Random) -> Pool:
    """Some of the demo's questions, each with documents of the demo's corpus."""
    questions = [row["question"] for row in _rows(root / "demo" / "questions.jsonl")]
    texts = [row["text"] for row in _rows(root / "demo" / "corpus.jsonl")]
    return Pool(
        {question: tuple(rng.sample(texts, NUM_DOCUMENTS)) for question in rng.sample(questions, NUM_QUESTIONS)}
    )


def _rows(path: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
