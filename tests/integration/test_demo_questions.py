"""The demo corpus end to end: every question through POST /answer."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from rankrag import Answer, Client
from tests.citing import unfounded
from tests.integration.conftest import ROOT

ROWS = [json.loads(line) for line in (ROOT / "demo" / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
ANSWERABLE = [row for row in ROWS if row["answerable"]]
UNANSWERABLE = [row for row in ROWS if not row["answerable"]]
TOP_K = 5


@pytest.fixture(scope="module")
def answers(service: str) -> dict[str, dict[str, Any]]:
    """Response bodies by question id. Neighbours in the corpus are asked one after the other: they share passages."""
    rows = sorted(ROWS, key=lambda row: row["passage_id"] or "")
    with Client(service, max_retries=10) as client, ThreadPoolExecutor(2) as pool:
        bodies = pool.map(lambda row: dict(client.answer(row["question"]).raw), rows)
        return dict(zip((row["id"] for row in rows), bodies, strict=True))


@pytest.fixture(scope="module")
def gold_ranks(service: str, answers: dict[str, dict[str, Any]]) -> list[tuple[int, int]]:
    """(retrieval rank, rank after reranking) of each gold passage among 20; 99 where it was not retrieved."""
    with httpx.Client(base_url=service, timeout=60) as http:
        return [_gold_rank(http, row, answers[row["id"]]) for row in ANSWERABLE]


def _gold_rank(http: httpx.Client, row: dict[str, Any], body: dict[str, Any]) -> tuple[int, int]:
    """From the answer if its passages hold the gold one, else from all the passages that were scored."""
    found = _ranks(row, body)
    if found is None:
        all_scored = {"question": row["question"], "top_k": 20, "max_tokens": 1}
        found = _ranks(row, http.post("/answer", json=all_scored).json())
    return found or (99, 99)


def _ranks(row: dict[str, Any], body: dict[str, Any]) -> tuple[int, int] | None:
    return next(((p["retrieval_rank"], p["rank"]) for p in body["passages"] if p["id"] == row["passage_id"]), None)


def normal(text: str) -> str:
    return " ".join(text.casefold().strip(" .").removeprefix("the ").split())


def test_answers_match_exactly(answers: dict[str, dict[str, Any]]) -> None:
    hits = sum(normal(answers[row["id"]]["answer"]) in map(normal, row["answers"]) for row in ANSWERABLE)
    print(f"\nexact match: {hits}/{len(ANSWERABLE)} = {hits / len(ANSWERABLE):.3f}")
    assert hits / len(ANSWERABLE) >= 0.70


def test_reranking_keeps_the_gold_passage_and_does_no_harm(gold_ranks: list[tuple[int, int]]) -> None:
    before = sum(retrieved <= TOP_K for retrieved, _ in gold_ranks) / len(gold_ranks)
    after = sum(reranked <= TOP_K for _, reranked in gold_ranks) / len(gold_ranks)
    first_before = sum(retrieved == 1 for retrieved, _ in gold_ranks) / len(gold_ranks)
    first_after = sum(reranked == 1 for _, reranked in gold_ranks) / len(gold_ranks)
    print(f"\nR@5 {before:.3f} -> {after:.3f}, R@1 {first_before:.3f} -> {first_after:.3f}")
    assert after >= 0.95
    assert after >= before


def test_every_citation_holds(answers: dict[str, dict[str, Any]]) -> None:
    typed = [Answer.of(body) for body in answers.values()]
    num_cited = sum(bool(answer.citations) for answer in typed)
    print(f"\n{sum(len(answer.citations) for answer in typed)} citations in {num_cited} of {len(typed)} answers")
    assert [unfounded(answer) for answer in typed] == [[]] * len(typed)
    assert num_cited >= len(typed) / 3


def test_abstentions_are_marked(answers: dict[str, dict[str, Any]]) -> None:
    abstained = sum(answers[row["id"]]["abstained"] for row in UNANSWERABLE)
    wrongly = sum(answers[row["id"]]["abstained"] for row in ANSWERABLE)
    print(f"\nabstained: {abstained}/{len(UNANSWERABLE)} unanswerable, {wrongly}/{len(ANSWERABLE)} answerable")
    assert abstained / len(UNANSWERABLE) > wrongly / len(ANSWERABLE)
