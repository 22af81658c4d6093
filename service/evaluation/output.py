"""Reports on the terminal and in a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.errors import ConfigError
from service.evaluation.pictures import draw_measures, draw_reliability
from service.evaluation.reports import Report

RESULTS = "results.json"


def show(console: Console, report: Report, subject: str) -> None:
    console.print(f"[bold]{report.title}[/]: {escape(subject)}", highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2))
    for number, column in enumerate(report.columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in report.rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    for note in report.notes:
        console.print(escape(note), style="dim", highlight=False, soft_wrap=True)


def write(directory: Path, report: Report, conditions: Mapping[str, Any]) -> list[Path]:
    """`results.json` and the pictures; what of it there is.

    Raises:
        ConfigError: the folder can't be written to.
    """
    results = directory / RESULTS
    written = [results]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**conditions, "report": report.title, **report.results}, indent=2, ensure_ascii=False)
        results.write_text(text + "\n", encoding="utf-8")
        if measures := report.results.get("measures"):
            written.append(directory / "measures.png")
            draw_measures(written[-1], measures, report.title)
        if report.reliability and all(report.reliability.values()):
            written.append(directory / "reliability.png")
            draw_reliability(written[-1], report.reliability)
    except OSError as exc:
        raise ConfigError(f"{directory} can't be written: {exc.strerror or exc}", field="out") from exc
    return written
