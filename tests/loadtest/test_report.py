"""Results as text, JSON and a picture."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.measures import Result, Table, Verdict
from loadtest.picture import draw, save
from loadtest.report import show, verdict_cells, write_json

TABLE = Table(("contender", "pairs/s"), (("list [16]", "70.0"),))
MISSED = Verdict("unique pairs: ours / best list", "at least", 0.9, 0.5, "a note")
PNG = b"\x89PNG"


def rate(contender: str, number: int, value: float) -> dict[str, Any]:
    return {"contender": contender, "round": number, "rate": value}


def all_results() -> list[Result]:
    rates = [
        rate(name, number, value + number)
        for number in range(2)
        for name, value in (
            ("list 32 × 4", 70),
            ("single × 32", 45),
            ("generative_scoring", 68),
            ("ours 16 × 20", 66),
        )
    ]
    bars = {"list 32 × 4": 0.9, "single × 32": 1.5, "generative_scoring": 0.95}
    load = {"load": 1.0, "offered_per_s": 3.0, "good_per_s": 2.5, "counts": {"ok": 50, "refused": 10, "in time": 50}}
    return [
        Result("unique", TABLE, (MISSED,), {"measurements": rates, "bars": bars, "ours": "ours 16 × 20"}),
        Result("passages", TABLE, (), {"ratio": 2.3}),
        Result("questions", TABLE, (), {"ratio": 31.0}),
        Result("beside", TABLE, (), {"alone_s": [0.1, 0.2], "beside_s": [0.2, 0.4]}),
        Result("overload", TABLE, (), {"capacity_per_s": 3.0, "loads": [load, {**load, "load": 3.0}]}),
    ]


def test_a_missed_bar_is_shown_as_one() -> None:
    mark, bar, wanted, measured = verdict_cells(MISSED)
    assert "FAIL" in mark
    assert "a note" in bar
    assert (wanted, measured) == ("≥ 0.9", "0.5")
    assert "pass" in verdict_cells(Verdict("bar", "at most", 5, 4.0))[0]
    assert verdict_cells(Verdict("bar", "at most", 5, None))[3] == "not measured"


def test_the_terminal_shows_tables_verdicts_and_what_did_not_run() -> None:
    text = StringIO()
    failed = Result("replicas", Table((), ()), (), error="no [second] vLLM")
    show(Console(file=text, width=120), [*all_results(), failed])
    assert "list [16]" in text.getvalue()
    assert "FAIL" in text.getvalue()
    assert "replicas did not run: no [second] vLLM" in text.getvalue()


def test_json_holds_the_conditions_and_every_verdict(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, all_results(), {"machine": {"num_cores": 2}})
    body = json.loads(path.read_text(encoding="utf-8"))
    assert body["machine"] == {"num_cores": 2}
    assert body["is_passed"] is False
    assert body["results"][0]["verdicts"][0]["is_passed"] is False
    assert [result["scenario"] for result in body["results"]][:2] == ["unique", "passages"]


def test_a_picture_is_drawn_of_everything_and_of_nothing(tmp_path: Path) -> None:
    for number, results in enumerate(([], all_results(), all_results()[:2])):
        path = tmp_path / f"{number}.png"
        save(path, results, "title")
        assert path.read_bytes().startswith(PNG)


def test_a_panel_without_its_scenario_says_so() -> None:
    panels = draw(all_results()[:1], "title").axes
    notes = [[text.get_text() for text in panel.texts] for panel in panels]
    assert [note == ["not measured"] for note in notes] == [False, True, True, True]
