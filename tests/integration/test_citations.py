"""What is cited on text that the checkpoint has never seen: SQuAD dev questions, five of BM25's passages each."""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest

from rankrag import Client, GivenPassage
from tests.citing import unfounded
from tests.integration.conftest import shared_data

NUM_QUESTIONS, NUM_PASSAGES = 300, 5
LEAST_CITED = 10  # the demo checkpoint seldom finds an answer there; of its own corpus: test_demo_questions


def rows() -> Iterator[dict[str, Any]]:
    with gzip.open(shared_data("dev/rerank.jsonl.gz"), "rt", encoding="utf-8") as lines:
        for line in islice(lines, NUM_QUESTIONS):
            yield json.loads(line)


def passages(row: dict[str, Any]) -> list[GivenPassage]:
    """That of the question and the first others."""
    gold_first = sorted(row["candidates"], key=lambda candidate: (-candidate["label"], candidate["rank"]))
    return [
        GivenPassage(id=candidate["id"], title=candidate["title"], text=candidate["text"])
        for candidate in gold_first[:NUM_PASSAGES]
    ]


@pytest.mark.timeout(600)
def test_every_citation_holds(service: str) -> None:
    asked = [(row["query"], passages(row)) for row in rows()]
    with Client(service, max_retries=10) as client, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda one: client.answer(one[0], passages=one[1]), asked))
    assert len(answers) == NUM_QUESTIONS
    assert [unfounded(answer) for answer in answers] == [[]] * NUM_QUESTIONS
    num_citations = sum(len(answer.citations) for answer in answers)
    num_cited = sum(bool(answer.citations) for answer in answers)
    print(f"\n{num_citations} citations in {num_cited} of {len(answers)} answers")
    assert num_cited >= LEAST_CITED
