"""The page holds everything itself, and says what was missed."""

import re
from pathlib import Path

from loadtest.load_page import Run, pictures, write_page
from loadtest.measures import Verdict
from loadtest.outcomes import Exchange, Visit, measures
from loadtest.profiles import Span, find_profile
from loadtest.resources import Sample

SMOKE = find_profile("smoke")
LAID = [Span("warm-up", 0, 2, 1, False), Span("<calm>", 2, 6, 1, True)]
CONDITIONS = {
    "at": "2026-01-01", "profile": "smoke", "capacity_per_s": 3.5, "seed": 1, "machine": {"cpu": "x", "num_cores": 2},
}  # fmt: skip


def a_run(samples: list[Sample]) -> Run:
    visits = [
        Visit(task, due_s / 2, due_s / 2, due_s / 2 + 0.1, due_s / 2 + 0.05 if task == "stream" else None,
              (Exchange("/answer", status),))
        for due_s, (task, status) in enumerate([("answer", 200), ("stream", 200), ("rerank", 429), ("answer", 0)] * 3)
    ]  # fmt: skip
    return Run("smoke", LAID, visits, samples, measures(visits, LAID, SMOKE.slo, 3.5))


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    held = [Sample(at_s, {"rss_bytes": 1e9, "fds": 30.0, "tasks": 9.0, "connections": 4.0}) for at_s in range(6)]
    verdicts = [Verdict("errors", "at most", 0, 0), Verdict("goodput_share", "at least", 0.9, None)]
    write_page(tmp_path / "page.html", a_run(held), verdicts, CONDITIONS, SMOKE)
    text = (tmp_path / "page.html").read_text()
    assert len(re.findall("data:image/png;base64,", text)) == 4
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "FAIL" in text
    assert "not measured" in text
    assert "&lt;calm&gt;" in text
    assert "<calm>" not in text


def test_without_samples_there_is_no_picture_of_them() -> None:
    assert [title for title, _ in pictures(a_run([]))] == [
        title for title, _ in pictures(a_run([Sample(0, {"fds": 1})]))[:3]
    ]
