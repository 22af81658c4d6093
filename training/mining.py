"""Hard negatives: what retrievers find for a question and what is not its answer.

The project's own index (the service's encoder and FAISS) and BM25 search the source's corpus; both lists are merged
rank by rank. Relevant passages go, and so do passages that hold an answer: they would be false negatives.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import bm25s
from tqdm import tqdm

from service.adapters.index_directory import MANIFEST, Corpus, build_index, embedded_text, open_index
from service.evaluation.squad import normalise
from service.types import NO_FILTER, Passage
from training.answers import holds_answer
from training.config import Mining
from training.records import Question, Rows, distinct

log = logging.getLogger(__name__)

_MAX_WORDS = 10**9  # passages are indexed as they are
_BATCH = 256
_FORMAT = 1


def with_negatives(rows: Rows, mining: Mining) -> Rows:
    """The same rows, each question with mined passages after its own irrelevant ones. Cached in `mining.cache`."""
    if not rows.corpus or not rows.questions:
        return rows
    path = mining.cache / f"negatives-{_digest(rows, mining)}.jsonl"
    if not path.exists():
        _write(path, mine(rows, mining))
    found = dict(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    passages = {passage.id: passage for passage in rows.corpus}
    questions = (
        replace(question, irrelevant=distinct([*question.irrelevant, *(passages[id_] for id_ in found[question.id])]))
        for question in rows.questions
    )
    return replace(rows, questions=tuple(questions))


def mine(rows: Rows, mining: Mining) -> dict[str, list[str]]:
    """Ids of the negatives of each question, hardest first, at most `mining.keep`."""
    texts = [question.text for question in rows.questions]
    searches = {"bm25": search_bm25, "dense": search_dense}
    rankings = [searches[name](rows.corpus, texts, mining) for name in mining.retrievers]
    return {
        question.id: [passage.id for passage in negatives(question, merged(found))][: mining.keep]
        for question, *found in zip(rows.questions, *rankings, strict=True)
    }


def merged(rankings: Sequence[Sequence[Passage]]) -> list[Passage]:
    """The first of each ranking, then the second of each, and so on; each passage once."""
    by_rank = chain.from_iterable(zip_longest(*rankings))
    return list(distinct(passage for passage in by_rank if passage is not None))


def negatives(question: Question, found: Sequence[Passage]) -> list[Passage]:
    """`found` without what is relevant, says the same as a relevant passage, or holds an answer."""
    ids = {passage.id for passage in question.relevant}
    texts = {normalise(passage.text) for passage in question.relevant}
    return [
        passage for passage in found
        if passage.id not in ids and normalise(passage.text) not in texts
        and not holds_answer(f"{passage.title} {passage.text}", question.answers)
    ]  # fmt: skip


def search_bm25(corpus: Sequence[Passage], questions: Sequence[str], mining: Mining) -> list[list[Passage]]:
    """The best `depth` passages of each question; ties in the corpus' order."""
    index = bm25s.BM25(backend="numpy")
    index.index(_words([embedded_text(passage) for passage in corpus]), show_progress=False)
    depth = min(mining.depth, len(corpus))
    found: list[list[Passage]] = []
    for start in tqdm(range(0, len(questions), _BATCH), desc="BM25", unit="batch", disable=None):
        words = _words(questions[start : start + _BATCH])
        rows, scores = index.retrieve(words, k=depth, show_progress=False, n_threads=1)
        found += [[corpus[row] for row in _ordered(*both)] for both in zip(rows, scores, strict=True)]
    return found


def _words(texts: Sequence[str]) -> list[list[str]]:
    words: list[list[str]] = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return [each or [""] for each in words]


def _ordered(rows: Sequence[int], scores: Sequence[float]) -> list[int]:
    """Rows with a score above 0, best first, ties by row."""
    pairs = sorted((-float(score), int(row)) for row, score in zip(rows, scores, strict=True) if score > 0)
    return [row for _, row in pairs]


def search_dense(corpus: Sequence[Passage], questions: Sequence[str], mining: Mining) -> list[list[Passage]]:
    """The best `depth` passages of each question by the service's index, which is built in the cache once."""
    directory = mining.cache / f"index-{_corpus_digest(corpus, mining)}"
    if not (directory / MANIFEST).exists():
        built = Corpus(passages=list(corpus), num_documents=len(corpus))
        build_index(built, directory, mining.encoder, max_words=_MAX_WORDS, progress=_shown)
    opened = open_index(directory, device="auto", encoder_device=None)

    async def search_all() -> list[list[Passage]]:
        found = []
        for start in tqdm(range(0, len(questions), _BATCH), desc="index", unit="batch", disable=None):
            vectors = opened.encoder.encode(questions[start : start + _BATCH])
            searches = [opened.index.search(vector, mining.depth, NO_FILTER) for vector in vectors]
            found += [[hit.passage for hit in hits] for hits in await asyncio.gather(*searches)]
        return found

    return asyncio.run(search_all())


def _shown(batches: Iterable[Any]) -> Iterator[Any]:
    return iter(tqdm(batches, desc="encoding", unit="batch", disable=None))


def _write(path: Path, found: Mapping[str, Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    fresh.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in found.items()), encoding="utf-8")
    fresh.replace(path)
    log.info("negatives of %d questions are in %s", len(found), path)


def _digest(rows: Rows, mining: Mining) -> str:
    asked = [(q.id, q.text, q.answers, [p.id for p in q.relevant]) for q in rows.questions]
    settings = (_FORMAT, mining.retrievers, mining.depth, mining.keep, _corpus_digest(rows.corpus, mining))
    return hashlib.sha256(json.dumps([settings, asked], ensure_ascii=False).encode()).hexdigest()[:16]


def _corpus_digest(corpus: Sequence[Passage], mining: Mining) -> str:
    digest = hashlib.sha256(mining.encoder.model_dump_json().encode())
    for passage in corpus:
        digest.update(json.dumps([passage.id, passage.title, passage.text], ensure_ascii=False).encode())
    return digest.hexdigest()[:16]
