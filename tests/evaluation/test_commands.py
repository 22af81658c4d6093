"""`rankrag eval` on small files, with the demo checkpoint in this process."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.adapters.calibration_file import NAME, read_calibration
from service.cli import app

CHECKPOINT = Path(__file__).parents[2] / "models" / "demo"
TEXTS = {
    "mont-blanc": "Mont Blanc is a mountain. Mont Blanc rises to 4,806 metres.",
    "rhine": "The Rhine is a river. The Rhine is 1,230 kilometres long.",
    "io": "Io is a moon. Io was discovered in 1610.",
    "etna": "Etna is a volcano. Etna last erupted in 2021.",
    "corsica": "Corsica is an island. Most people on Corsica live in Ajaccio.",
    "mozart": "Mozart was a composer. Mozart was born in 1756.",
}
QUESTIONS = {
    "mont-blanc": "How high is Mont Blanc?",
    "rhine": "How long is the Rhine?",
    "io": "When was Io discovered?",
    "mozart": "When was Mozart born?",
}


def ranking_row(gold: str, question: str) -> dict[str, Any]:
    """Candidates with the gold one last, beyond the first five."""
    ids = [*(id_ for id_ in TEXTS if id_ != gold), gold]
    candidates = [{"id": id_, "text": TEXTS[id_], "label": int(id_ == gold)} for id_ in ids]
    return {"id": gold, "query": question, "answers": [], "candidates": candidates}


def inverted() -> list[dict[str, Any]]:
    """What doesn't answer comes first and is called right, before five that do answer."""
    other = {"id": "corsica", "text": TEXTS["corsica"], "label": 1}
    return [
        {
            "id": gold,
            "query": question,
            "candidates": [other, *({"id": f"{gold}-{n}", "text": TEXTS[gold], "label": 0} for n in range(5))],
        }
        for gold, question in QUESTIONS.items()
    ]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.jsonl", [ranking_row(*item) for item in QUESTIONS.items()])


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    return result.exit_code, result.output


def test_retrieval_of_candidates_needs_neither_index_nor_checkpoint(rows: Path, tmp_path: Path) -> None:
    code, output = run("retrieval", rows, "--out", tmp_path / "out")
    assert code == 0, output
    assert "R@5" in output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["measures"]["R@1"]["mean"] == 0.0
    assert results["measures"]["RR"]["mean"] == pytest.approx(1 / 6)
    assert (results["source"], results["seed"], results["counts"]["judged"]) == (str(rows), 1, 4)
    assert (tmp_path / "out" / "measures.png").stat().st_size > 0


def test_reranking_is_shown_beside_the_retrievers_order_and_written(rows: Path, tmp_path: Path) -> None:
    code, output = run("rerank", rows, "--checkpoint", CHECKPOINT, "--limit", 3, "--out", tmp_path / "out")
    assert code == 0, output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["measures"]["R@5"] == {"before": 0.0, "after": 1.0, "difference": 1.0, "low": 1.0, "high": 1.0}
    assert results["cost"]["pairs"] == 18
    assert results["cost"]["prompt_tokens"] > 18 * 50
    assert results["checkpoint"].startswith(str(CHECKPOINT))
    assert sum(bin_["num_pairs"] for bin_ in results["calibration"]["bins"]) == 18
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "measures.png", "reliability.png"}


def test_answers_are_compared_with_the_right_ones(tmp_path: Path) -> None:
    row = {**ranking_row("mozart", QUESTIONS["mozart"]), "answers": ["1756", "in 1756"]}
    rows = written(tmp_path / "rows.jsonl", [row])
    why = {"id": "why", "query": "Why?", "answers": [], "candidates": row["candidates"]}
    also = written(tmp_path / "unanswerable.jsonl", [why])
    options = ["--checkpoint", CHECKPOINT, "--context", "gold", "--also", also, "--out", tmp_path / "out"]
    code, output = run("answer", rows, *options)
    assert code == 0, output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["answers"]["EM"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "count": 1}
    assert (results["cost"]["pairs"], results["counts"]["questions"]) == (10, 2)
    assert (results["abstention"]["num_unanswerable"], results["abstention"]["share_of_answerable"]) == (1, 0.0)


def test_gate_ends_with_what_it_found(rows: Path, tmp_path: Path) -> None:
    code, output = run("gate", "--probe", rows, "--checkpoint", CHECKPOINT)
    assert (code, "passed: R@5 0.000 by the retriever, 1.000 after reranking" in output) == (0, True), output
    code, output = run("gate", "--probe", written(tmp_path / "inverted.jsonl", inverted()), "--checkpoint", CHECKPOINT)
    assert (code, "failed: R@5 1.000 by the retriever, 0.000 after reranking" in output) == (1, True), output


def test_calibration_is_written_beside_the_weights(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    noisy = [ranking_row(*item) for item in QUESTIONS.items()]
    for number, row in enumerate(noisy):
        row["candidates"][number]["label"] = 1  # else the labels can be told apart, and no slope is steep enough
    rows = written(tmp_path / "pairs.jsonl", noisy)
    code, output = run("calibrate", "--pairs", rows, "--checkpoint", checkpoint, "--dry-run")
    assert (code, (checkpoint / NAME).exists()) == (0, False), output
    code, output = run("calibrate", "--pairs", rows, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert code == 0, output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    found = read_calibration(checkpoint)
    assert (found.slope, found.intercept) == (results["fitted"]["slope"], results["fitted"]["intercept"])
    assert results["fitted"]["num_pairs"] == results["counts"]["held_out_pairs"] == 12
    again, _ = run("calibrate", "--pairs", rows, "--checkpoint", checkpoint)
    assert again == 0
    assert read_calibration(checkpoint).slope == pytest.approx(found.slope, rel=1e-3)  # of margins, not of its own work


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieval", "none.jsonl"], "none.jsonl can't be read"),
        (["gate", "--probe", "bad.jsonl"], "bad.jsonl:1: not JSON"),
        (["gate", "--probe", "questions.jsonl"], "need an index"),
        (["rerank", "questions.jsonl", "--checkpoint", "none"], "checkpoint 'none' is not a directory"),
        (["rerank", "questions.jsonl", "--url", "http://127.0.0.1:1"], "can't be reached"),
        (["retrieval", "questions.jsonl"], "there is no index"),
        (["retrieval", "unjudged.jsonl"], "nothing to measure"),
        (["answer", "questions.jsonl", "--context", "gold", "--checkpoint", str(CHECKPOINT)], "needs --index"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "bad.jsonl").write_text("{")
    written(tmp_path / "questions.jsonl", [{"id": "q", "question": "Who?", "passage_id": "p"}])
    unjudged = {"id": "q", "query": "Who?", "candidates": [{"id": "p", "text": "t", "label": 0}]}
    written(tmp_path / "unjudged.jsonl", [unjudged])
    code, output = run(*arguments)
    assert code == 2
    assert message in output.replace("\n", "")
    assert "Traceback" not in output


def test_missing_extra_is_named(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("service.evaluation.") and "commands" not in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    code, output = run("retrieval", rows)
    assert code == 2
    assert "`rankrag eval` needs ir_measures" in output
    assert "rankrag[eval]" in output
