"""Every line of docs/threat-model.md has its test, and every test that claims one has its line."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "threat-model.md"
MAX_LINES = 60


def lines() -> list[str]:
    return re.findall(r"^\| (T\d\d) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def claims() -> Counter[str]:
    """How many tests carry each number: decorators of functions that pytest collects."""
    found: Counter[str] = Counter()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.update(_ids(node))
    return found


def _ids(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [
        str(ast.literal_eval(argument))
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.threat"
        for argument in decorator.args
    ]


def test_lines_are_numbered_in_order() -> None:
    assert lines() == [f"T{number:02}" for number in range(1, len(lines()) + 1)]
    assert len(lines()) > 20


def test_the_page_is_one_page() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("line", lines())
def test_every_line_has_a_test(line: str) -> None:
    assert claims()[line] > 0


def test_every_claim_has_a_line() -> None:
    assert set(claims()) <= set(lines())
