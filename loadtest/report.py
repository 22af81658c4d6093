"""Results on the terminal and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from loadtest.measures import Result, Table, Verdict, is_passed


def show(console: Console, results: Sequence[Result]) -> None:
    for result in results:
        show_table(console, result.scenario, result.table)
        if result.error:
            console.print(f"[red]{result.scenario} did not run:[/] {escape(result.error)}", highlight=False)
    verdicts = [verdict for result in results for verdict in result.verdicts]
    show_verdicts(console, verdicts)


def show_table(console: Console, title: str, table: Table) -> None:
    if not table.rows:
        return
    shown = RichTable(title=title, title_justify="left", box=None, padding=(0, 2), header_style="dim")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    console.print(shown)
    console.print()


def show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    if not verdicts:
        return
    shown = RichTable(title="bars", title_justify="left", box=None, padding=(0, 2), header_style="dim")
    shown.add_column("")
    shown.add_column("bar")
    shown.add_column("wanted", justify="right")
    shown.add_column("measured", justify="right")
    for verdict in verdicts:
        shown.add_row(*verdict_cells(verdict))
    console.print(shown)


def verdict_cells(verdict: Verdict) -> tuple[str, str, str, str]:
    mark = "[green]pass[/]" if verdict.is_passed else "[bold red]FAIL[/]"
    note = f" [dim]({escape(verdict.note)})[/]" if verdict.note else ""
    sign = "≥" if verdict.sense == "at least" else "≤"
    measured = "not measured" if verdict.value is None else f"{verdict.value:.3g}"
    return mark, escape(verdict.bar) + note, f"{sign} {verdict.limit:g}", measured


def write_json(path: Path, results: Sequence[Result], conditions: Mapping[str, Any]) -> None:
    """Everything that was measured, and under which conditions."""
    rows = [
        {**asdict(result), "verdicts": [{**asdict(one), "is_passed": one.is_passed} for one in result.verdicts]}
        for result in results
    ]
    body = {**conditions, "is_passed": is_passed(results), "results": rows}
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
