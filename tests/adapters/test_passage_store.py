"""Passages on disk: what was written comes back, and filters select what they say."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.adapters.passage_store import MetadataTypes, PassageStore, is_metadata_value, write_passages
from service.adapters.token_store import TokenStore, write_tokens
from service.errors import ConfigError, CorpusError, RequestError
from service.types import Filter, Metadata, Passage
from tests.fake_vllm import prompt_tokenizer
from tests.filtering import passes, where

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def stored(directory: Path, passages: list[Passage]) -> PassageStore:
    types = MetadataTypes()
    for passage in passages:
        types.check(passage.metadata)
    write_passages(directory / "passages.arrow", passages, types)
    return PassageStore(directory / "passages.arrow")


def store_of(directory: Path, *rows: Metadata) -> PassageStore:
    return stored(directory, [Passage(str(number), "text", "", row) for number, row in enumerate(rows)])


@settings(max_examples=40)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5))
def test_passages_come_back_as_they_were(texts: list[tuple[str, str, str]]) -> None:
    passages = [Passage(id_, text, title) for id_, text, title in texts]
    with TemporaryDirectory() as directory:
        store = stored(Path(directory), passages)
        assert store.passages(range(len(passages))) == passages
        assert len(store) == len(passages)


def test_rows_come_in_the_order_asked_and_may_repeat(tmp_path: Path) -> None:
    store = store_of(tmp_path, {}, {}, {})
    assert [passage.id for passage in store.passages([2, 0, 2])] == ["2", "0", "2"]
    assert store.passages([]) == []


def test_metadata_comes_back_with_its_types(tmp_path: Path) -> None:
    rows: list[Metadata] = [
        {"text": "漢字", "int": 3, "float": 0.5, "bool": True, "nothing": None},
        {"int": 2.5, "float": 4},
        {},
    ]
    found = [passage.metadata for passage in store_of(tmp_path, *rows).passages([0, 1, 2])]
    assert found == rows
    assert [type(value) for value in found[0].values()] == [str, int, float, bool, type(None)]


def test_metadata_named_like_a_column_does_not_disturb_it(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"id": "other", "text": 3, "meta.x": True, "": "empty"})
    passage = store.passages([0])[0]
    assert (passage.id, passage.text) == ("0", "text")
    assert list(store.matching(where({"id": "other", "text": 3, "meta.x": True, "": "empty"}))) == [0]


def test_file_is_opened_without_being_read(tmp_path: Path) -> None:
    passages = [Passage(str(number), "x" * 10_000) for number in range(2000)]
    stored(tmp_path, passages)
    before = pa.total_allocated_bytes()
    store = PassageStore(tmp_path / "passages.arrow")
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert store.passages([1999]) == [passages[1999]]


def test_more_rows_than_one_batch_keep_their_numbers(tmp_path: Path) -> None:
    store = stored(tmp_path, [Passage(str(number), "", "", {"odd": number % 2 == 1}) for number in range(70_000)])
    assert [passage.id for passage in store.passages([65_535, 65_536, 69_999])] == ["65535", "65536", "69999"]
    assert len(store.matching(where({"odd": True}))) == 35_000


def test_passages_come_with_their_token_ids_where_there_are_any(tmp_path: Path) -> None:
    passages = [Passage(str(number), "Naïve 漢字." * number, "title") for number in range(5)]
    assert [passage.context_ids for passage in stored(tmp_path, passages).passages([3, 0])] == [None, None]
    tokens = TokenStore(tmp_path, write_tokens(tmp_path, passages, prompt_tokenizer()))
    found = PassageStore(tmp_path / "passages.arrow", tokens).passages([3, 0, 3])
    wanted = [passages[row] for row in (3, 0, 3)]
    assert found == wanted
    assert [passage.context_ids for passage in found] == prompt_tokenizer().context_ids(wanted)


def test_token_ids_of_other_passages_are_a_config_error(tmp_path: Path) -> None:
    passages = [Passage("a", "text"), Passage("b", "text")]
    stored(tmp_path, passages)
    tokens = TokenStore(tmp_path, write_tokens(tmp_path, passages[:1], prompt_tokenizer()))
    with pytest.raises(ConfigError, match="2 passages but there are token ids of 1"):
        PassageStore(tmp_path / "passages.arrow", tokens)


# Filters


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from(["a", "b", "é"]),
    "number": st.one_of(st.integers(-2, 2), st.sampled_from([0.5, 1.0, -0.0])),
    "flag": st.booleans(),
}
ROWS = st.lists(
    st.fixed_dictionaries({}, optional={name: st.one_of(st.none(), values) for name, values in VALUES.items()}),
    max_size=12,
)
MAYBE = {name: st.one_of(st.none(), values) for name, values in VALUES.items()}
BOUNDS = {
    name: st.fixed_dictionaries({}, optional=dict.fromkeys(("gt", "gte", "lt", "lte"), VALUES[name])).filter(bool)
    for name in ("text", "number")
}
CONDITIONS = {
    name: st.one_of(values, st.lists(values, max_size=3), st.fixed_dictionaries({"in": st.lists(values, max_size=3)}))
    | BOUNDS.get(name, st.nothing())
    for name, values in MAYBE.items()
}
FILTERS = st.recursive(
    st.fixed_dictionaries({}, optional=CONDITIONS),
    lambda parts: st.fixed_dictionaries(
        {},
        optional={
            "and": st.lists(parts, min_size=1, max_size=3),
            "or": st.lists(parts, min_size=1, max_size=3),
            "not": parts,
            **CONDITIONS,
        },
    ),
    max_leaves=6,
)
EVERY_FIELD: Metadata = {"text": "c", "number": 99, "flag": False}


@settings(max_examples=200)
@given(ROWS, FILTERS.map(where))
def test_matching_rows_are_those_of_brute_force(rows: list[Metadata], filter_: Filter) -> None:
    rows = [EVERY_FIELD, *rows]
    with TemporaryDirectory() as directory:
        found = store_of(Path(directory), *rows).matching(filter_)
    assert found.tolist() == [number for number, row in enumerate(rows) if passes(row, filter_)]


@pytest.mark.parametrize(("stored", "wanted"), [(-0.0, 0), (0, -0.0), (0.0, -0.0), (-0.0, 0.0)])
def test_zero_is_zero_whatever_its_sign(tmp_path: Path, stored: float, wanted: float) -> None:
    assert store_of(tmp_path, {"number": stored}).matching(where({"number": wanted})).tolist() == [0]


@pytest.mark.parametrize(
    ("filters", "message"), [({"kind": "a"}, "there are: flag, number, text"), ({"": 1}, "there are")]
)
def test_field_that_no_passage_has_is_a_request_error_that_lists_the_fields(
    tmp_path: Path, filters: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        store_of(tmp_path, EVERY_FIELD).matching(where(filters))
    assert caught.value.field == f"filters.{next(iter(filters))}"


WRONG_TYPES: list[tuple[str, Any]] = [
    ("text", 1), ("text", True), ("number", "1"), ("number", True), ("flag", 1), ("flag", "true"), ("text", ["a", 1]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_value_of_another_type_is_a_request_error(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=rf"filters\.{name} compares with"):
        store_of(tmp_path, EVERY_FIELD).matching(where({name: value}))


def test_remembered_filter_is_not_taken_for_an_equal_one_of_another_type(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"number": 1, "flag": True})
    assert store.matching(where({"number": 1})).tolist() == [0]
    with pytest.raises(RequestError):
        store.matching(where({"number": True}))
    assert store.matching(where({"flag": True})).tolist() == [0]
    with pytest.raises(RequestError):
        store.matching(where({"flag": 1}))


@pytest.mark.parametrize(
    ("wanted", "rows"), [(10**400, []), ({"lt": 10**400}, [0]), ({"gt": -(10**400)}, [0]), ({"lt": -(10**400)}, [])]
)
def test_number_beyond_all_floats_is_beyond_all_numbers(tmp_path: Path, wanted: Any, rows: list[int]) -> None:
    assert store_of(tmp_path, {"number": 1}).matching(where({"number": wanted})).tolist() == rows


def test_passages_without_the_field_are_on_no_side_of_a_bound_but_in_its_complement(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"year": 1865}, {"year": None}, {})
    assert store.matching(where({"year": {"gte": 1900}})).tolist() == []
    assert store.matching(where({"not": {"year": {"gte": 1900}}})).tolist() == [0, 1, 2]
    assert store.matching(where({"not": {"year": None}, "year": {"lt": 1900}})).tolist() == [0]
    assert store.matching(where({"year": {"in": [None, 1865]}})).tolist() == [0, 1, 2]


def test_texts_are_compared_by_code_point(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"date": "1865-07-14"}, {"date": "1900-01-01"}, {"date": "é"}, {"date": "\U0001f600"})
    assert store.matching(where({"date": {"gte": "1900", "lt": "1901"}})).tolist() == [1]
    assert store.matching(where({"date": {"gt": "z"}})).tolist() == [2, 3]
    assert store.matching(where({"date": {"gt": "\uffff"}})).tolist() == [3]


def test_true_and_false_have_no_order(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="true or false, which has no `gt`") as caught:
        store_of(tmp_path, EVERY_FIELD).matching(where({"not": {"flag": {"gt": 1}}}))
    assert caught.value.field == "filters.flag"


def test_filters_are_found_again_in_any_order(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"a": 1, "b": 2}, {"a": 1, "b": 3})
    assert store.matching(where({"a": 1, "b": 2})) is store.matching(where({"b": 2, "a": 1}))


def test_field_of_changing_type_is_a_corpus_error_that_names_it() -> None:
    types = MetadataTypes()
    types.check({"year": 1865, "kind": None})
    types.check({"year": 2.5, "kind": "text"})
    with pytest.raises(CorpusError, match="year is text here but a number in an earlier row") as caught:
        types.check({"year": "1865"})
    assert caught.value.field == "metadata.year"


def test_rejected_row_fixes_no_type() -> None:
    types = MetadataTypes()
    types.check({"year": 1865})
    with pytest.raises(CorpusError):
        types.check({"kind": 1, "year": "1865"})
    types.check({"kind": "text"})
    assert types.types == {"year": pa.float64(), "kind": pa.string()}


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ("", True), (0, True), (-1.5, True), (True, True), (None, True),
        (math.nan, False), (math.inf, False), (10**400, False), ([], False), ({}, False), (b"", False),
        ("\ud800", False),
    ],
)  # fmt: skip
def test_metadata_is_text_finite_numbers_booleans_and_null(value: object, is_allowed: bool) -> None:
    assert is_metadata_value(value) is is_allowed
