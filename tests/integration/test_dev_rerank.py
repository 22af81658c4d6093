"""Ranking of text that the checkpoint has never seen: SQuAD dev questions with BM25's top 20, shuffled."""

import gzip
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.conftest import shared_data

NUM_QUERIES = 500


def shuffled_rows() -> list[dict[str, Any]]:
    """Candidates shuffled; questions on one article one after the other, since they share passages."""
    return sorted(_shuffled(), key=lambda row: next(c["title"] for c in row["candidates"] if c["label"]))


def _shuffled() -> Iterator[dict[str, Any]]:
    rng = random.Random(0)
    with gzip.open(shared_data("dev/rerank.jsonl.gz"), "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rng.shuffle(row["candidates"])
            yield row


def reciprocal_rank(http: httpx.Client, row: dict[str, Any]) -> float:
    documents = [{"title": c["title"], "text": c["text"]} for c in row["candidates"]]
    response = http.post("/rerank", json={"query": row["query"], "documents": documents, "cache": False})
    assert response.status_code == 200
    order = [result["index"] for result in response.json()["results"]]
    return 1 / (1 + next(rank for rank, index in enumerate(order) if row["candidates"][index]["label"]))


@pytest.mark.timeout(1200)
def test_unseen_text_is_ranked_better_than_by_chance(service: str) -> None:
    with httpx.Client(base_url=service, timeout=60) as http, ThreadPoolExecutor(2) as pool:
        ranks = list(pool.map(lambda row: reciprocal_rank(http, row), shuffled_rows()))
    assert len(ranks) == NUM_QUERIES
    mrr = sum(ranks) / len(ranks)
    print(f"\nMRR over {len(ranks)} queries: {mrr:.3f} (random .186, BM25 .802)")
    assert mrr >= 0.30
