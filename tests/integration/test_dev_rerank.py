"""Ranking of text that the checkpoint has never seen: SQuAD dev questions with BM25's top 20, shuffled."""

import gzip
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest

from rankrag import Client
from tests.integration.conftest import shared_data

NUM_QUERIES = 200


def shuffled_rows() -> list[dict[str, Any]]:
    """Candidates shuffled; questions on one article one after the other, since they share passages."""
    rows = islice(_shuffled(), NUM_QUERIES)
    return sorted(rows, key=lambda row: next(c["title"] for c in row["candidates"] if c["label"]))


def _shuffled() -> Iterator[dict[str, Any]]:
    rng = random.Random(0)
    with gzip.open(shared_data("dev/rerank.jsonl.gz"), "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rng.shuffle(row["candidates"])
            yield row


def reciprocal_rank(client: Client, row: dict[str, Any]) -> float:
    documents = [{"title": c["title"], "text": c["text"]} for c in row["candidates"]]
    ranking = client.rerank(row["query"], documents, cache=False)
    return 1 / (1 + next(rank for rank, found in enumerate(ranking.results) if row["candidates"][found.index]["label"]))


@pytest.mark.timeout(1200)
def test_unseen_text_is_ranked_better_than_by_chance(service: str) -> None:
    with Client(service, max_retries=10) as client, ThreadPoolExecutor(2) as pool:
        ranks = list(pool.map(lambda row: reciprocal_rank(client, row), shuffled_rows()))
    assert len(ranks) == NUM_QUERIES
    mrr = sum(ranks) / len(ranks)
    print(f"\nMRR over {len(ranks)} queries: {mrr:.3f} (random .186, BM25 .802)")
    assert mrr >= 0.60
