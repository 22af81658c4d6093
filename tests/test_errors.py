"""The drawing in service/errors.py is the tree of classes."""

import re
from typing import NamedTuple

import pytest

from service import errors
from service.errors import RankRAGError


class Row(NamedTuple):
    depth: int
    name: str
    status: int
    code: str


def drawn() -> list[Row]:
    found = re.finditer(r"^([│ ]*)(├── |└── )?(\w+Error) +(\d{3}) (\w+)", errors.__doc__ or "", re.MULTILINE)
    return [
        Row((len(m[1]) + len(m[2] or "")) // 4, m[3], int(m[4]), m[5])
        for m in found
    ]  # fmt: skip


def written(kind: type[RankRAGError] = RankRAGError, depth: int = 0) -> list[Row]:
    children = [row for child in kind.__subclasses__() for row in written(child, depth + 1)]
    return [Row(depth, kind.__name__, kind.status, kind.code), *children]


def test_drawing_is_the_tree_of_classes() -> None:
    assert drawn() == written()


def test_every_class_of_the_module_is_in_the_tree() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert classes == {row.name for row in written()}


def test_no_two_errors_share_a_code() -> None:
    codes = [row.code for row in written()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("line", [line for line in (errors.__doc__ or "").splitlines() if "Error " in line])
def test_lines_of_the_drawing_are_aligned_by_their_branches(line: str) -> None:
    assert re.match(r"^(RankRAGError|[├└]── \w+Error|│   [├└]── \w+Error) +\d{3} \w+", line)


def test_error_keeps_its_words_field_and_limit() -> None:
    error = RankRAGError("what happened", field="top_n", limit=200)
    assert (str(error), error.message, error.field, error.limit) == ("what happened", "what happened", "top_n", 200)
