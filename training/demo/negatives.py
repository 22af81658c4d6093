"""Hard negatives of public questions: passages that share their words, by BM25."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s

from service.core.cache_keys import digest

NUM_CANDIDATES = 20
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Negatives:
    """By question id the passages that look relevant and are not, best first; by passage the ids of such questions."""

    passages: Mapping[str, Sequence[str]]
    questions: Mapping[str, Sequence[str]]


def mine(
    passages: Mapping[str, Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], cache: Path
) -> Negatives:  # fmt: skip
    """What BM25 finds beside the gold passage, less what holds an answer. Kept in `cache`, as it takes minutes."""
    path = cache / f"negatives-{digest(len(passages), len(questions), [row['id'] for row in questions[:100]])}.json"
    if not path.exists():
        path.write_text(json.dumps(_mined(passages, questions)))
    found: dict[str, list[str]] = json.loads(path.read_text())
    asked: dict[str, list[str]] = defaultdict(list)
    for question, ids in found.items():
        for id_ in ids:
            asked[id_].append(question)
    return Negatives(found, dict(asked))


def _mined(
    passages: Mapping[str, Mapping[str, Any]], questions: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:  # fmt: skip
    ids = list(passages)
    words = [plain(f"{passages[id_]['title']} {passages[id_]['text']}") for id_ in ids]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(words, stopwords="en", show_progress=False), show_progress=False)
    asked = bm25s.tokenize([plain(row["question"]) for row in questions], stopwords="en", show_progress=False)
    found, _ = index.retrieve(asked, k=NUM_CANDIDATES, show_progress=False)
    return {
        row["id"]: [ids[at] for at in places if ids[at] != row["passage_id"] and not _answers(row, words[at])]
        for row, places in zip(questions, found.tolist(), strict=True)
    }


def plain(text: str) -> str:
    return " ".join(WORD.findall(text.lower()))


def _answers(row: Mapping[str, Any], words: str) -> bool:
    return any(f" {plain(answer)} " in f" {words} " for answer in row["answers"])
