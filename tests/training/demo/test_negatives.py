"""What looks relevant and isn't, from both sides."""

from pathlib import Path
from typing import Any

from training.demo.negatives import mine

PASSAGES: dict[str, dict[str, Any]] = {
    "rhine": {"title": "Rhine", "text": "The river Rhine is 1,230 km long and flows to the North Sea."},
    "elbe": {"title": "Elbe", "text": "The river Elbe is 1,094 km long and flows to the North Sea."},
    "copy": {"title": "Rivers", "text": "At 1,230 km long the Rhine is a long river."},
    "opera": {"title": "Aida", "text": "Aida is an opera by Giuseppe Verdi."},
}
QUESTIONS: list[dict[str, Any]] = [
    {"id": "q1", "question": "How long is the river Rhine?", "answers": ["1,230 km"], "passage_id": "rhine"},
    {"id": "q2", "question": "Who wrote the opera Aida?", "answers": ["Verdi"], "passage_id": "opera"},
]


def test_near_passages_without_the_answer_are_negatives_from_both_sides(tmp_path: Path) -> None:
    found = mine(PASSAGES, QUESTIONS, tmp_path)
    assert found.passages == {"q1": ["elbe"], "q2": []}
    assert found.questions == {"elbe": ["q1"]}


def test_what_was_mined_is_kept(tmp_path: Path) -> None:
    first = mine(PASSAGES, QUESTIONS, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]
    assert mine(PASSAGES, QUESTIONS, tmp_path) == first
