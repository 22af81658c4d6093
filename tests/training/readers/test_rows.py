"""Errors name the file, the line and the field."""

import gzip
from pathlib import Path

import pytest

from service.errors import CorpusError
from training.readers.rows import Row, json_rows, tsv_rows


def test_jsonl_a_json_list_and_gzip_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": "1"}\n\n{"x": "2"}\n')
    (tmp_path / "b.json").write_text('[{"x": "1"}, {"x": "2"}]')
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write('{"x": "1"}\n{"x": "2"}\n')
    for name in ("a.jsonl", "b.json", "c.jsonl.gz"):
        assert [row.text("x") for row in json_rows(tmp_path / name)] == ["1", "2"]


@pytest.mark.parametrize(("text", "error"), [("{", "a.jsonl:2: not JSON"), ("[1]", "a.jsonl:2: a row is an object")])
def test_a_bad_line_is_named(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"x": 1}}\n{text}\n')
    with pytest.raises(CorpusError, match=error):
        list(json_rows(tmp_path / "a.jsonl"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"none\.jsonl: No such file"):
        list(json_rows(tmp_path / "none.jsonl"))


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('1\tit "is"\n2\n')
    with pytest.raises(CorpusError, match=r"a\.tsv:2: 1 columns, wanted 2 \(id, text\)"):
        list(tsv_rows(tmp_path / "a.tsv", ("id", "text")))


@pytest.mark.parametrize("value", [None, "", "  ", 1.5, True, ["x"]])
def test_a_field_that_is_no_text_is_named(value: object) -> None:
    with pytest.raises(CorpusError, match="f:7: `question` must be a text") as caught:
        Row("f:7", {"question": value}).text("question")
    assert caught.value.field == "question"


def test_nested_rows_say_where_they_are() -> None:
    row = Row("f:7", {"qas": [{"id": 5}, {"id": ""}]})
    first, second = row.rows("qas")
    assert first.text("id") == "5"
    with pytest.raises(CorpusError, match=r"f:7: qas\[1\]: `id`"):
        second.text("id")
