"""Answers on a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from service.display import show_answer

PASSAGE = {"id": "p", "title": "Mont [b]Blanc", "text": "It rises.", "rank": 1, "retrieval_rank": 2, "in_context": True}
BODY: dict[str, Any] = {
    "answer": "4,806 [red]metres",
    "abstained": False,
    "degraded": ["rerank_skipped"],
    "citations": [{"sources": [{"id": "p"}]}],
    "passages": [{**PASSAGE, "relevance_score": 0.9}, {**PASSAGE, "id": "q", "relevance_score": None}],
    "timings_ms": {"score": 12.3, "total": 45.6},
    "usage": {"pairs_scored": 2, "total_tokens": 50},
}


def shown(question: str, expected: str | None = None) -> str:
    console = Console(file=io.StringIO(), width=120)
    show_answer(console, question, BODY, expected)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("question", ["How high is Mont Blanc?", "Is [/] or [bold] markup?"])
def test_question_is_shown_as_it_is(question: str) -> None:
    assert question in shown(question)


def test_answer_is_shown_with_its_passages_times_and_degradation() -> None:
    text = shown("How high?", expected="4,806 m")
    for part in (
        "4,806 [red]metres", "(expected: 4,806 m)", "degraded: rerank_skipped", "Mont [b]Blanc: It rises.", "2↑",
        "0.900", "✔", "score 12 ms  total 46 ms", "pairs scored 2, tokens 50",
    ):  # fmt: skip
        assert part in text
