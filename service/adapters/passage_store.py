"""Passages on disk: one Arrow file, memory-mapped, so that it opens in milliseconds at any size.

Columns: `id`, `title`, `text`, `metadata` (JSON, returned as it was given), and one `meta.NAME` column of a
single type for each metadata field, which filters are evaluated on.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.adapters.token_store import TokenStore
from service.errors import ConfigError, CorpusError, RequestError
from service.types import Filters, Metadata, MetadataValue, Passage

_PREFIX = "meta."
_ROWS_PER_BATCH = 65_536
_TYPES: Mapping[type, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.float64(),
    float: pa.float64(),
}


class MetadataTypes:
    """The type of each metadata field, fixed by the first value seen: text, number or boolean."""

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}

    def check(self, metadata: Metadata) -> None:
        """Raises CorpusError where a field's value is of another kind than in an earlier row."""
        given = {name: _TYPES[type(value)] for name, value in metadata.items() if value is not None}
        for name, type_ in given.items():
            wanted = self.types.get(name, type_)
            if wanted != type_:
                raise CorpusError(
                    f"metadata.{name} is {_describe(type_)} here but {_describe(wanted)} in an earlier row",
                    field=f"metadata.{name}",
                )
        self.types |= given


def write_passages(path: Path, passages: Iterable[Passage], types: MetadataTypes) -> None:
    """Write all passages in order; row numbers are the vector index's ids."""
    fields: list[Any] = [pa.field(name, pa.string()) for name in ("id", "title", "text", "metadata")]
    fields += [pa.field(_PREFIX + name, type_) for name, type_ in sorted(types.types.items())]
    schema = pa.schema(fields)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        batch: list[dict[str, Any]] = []
        for passage in passages:
            batch.append(_row(passage))
            if len(batch) == _ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch = []
        writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))


def _row(passage: Passage) -> dict[str, Any]:
    metadata = dict(passage.metadata)
    row = {"id": passage.id, "title": passage.title, "text": passage.text, "metadata": json.dumps(metadata)}
    return row | {_PREFIX + name: _column_value(value) for name, value in metadata.items()}


def _column_value(value: MetadataValue) -> MetadataValue:
    """Numbers are compared as floats, where -0.0 is 0.0; a whole one beyond all floats equals no stored number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return value
    try:
        return float(value) + 0.0  # makes 0.0 of -0.0, which Arrow keeps apart
    except OverflowError:
        return math.inf


class PassageStore:
    """Reads what `write_passages` wrote. Opening costs milliseconds; a row costs microseconds.

    With `tokens` of the same passages, each comes with its ids.
    """

    def __init__(self, path: Path, tokens: TokenStore | None = None) -> None:
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as exc:
            raise ConfigError(f"{path} is not a file of passages: {exc}") from exc
        if tokens is not None and len(tokens) != len(self):
            raise ConfigError(f"{path} has {len(self)} passages but there are token ids of {len(tokens)}")
        self._tokens = tokens
        self._matching = lru_cache(maxsize=64)(self._find_matching)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def ids(self) -> list[str]:
        """Of all passages, by row. O(n)."""
        return [str(id_) for id_ in self._table["id"].to_pylist()]

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """The passages at `rows`, in that order."""
        columns = self._table.select(["id", "title", "text", "metadata"])
        return [_passage(columns.slice(row, 1), self._context_ids(row)) for row in rows]

    def _context_ids(self, row: int) -> Sequence[int] | None:
        return None if self._tokens is None else self._tokens.ids(row)

    def matching(self, filters: Filters) -> NDArray[np.int64]:
        """Rows whose metadata passes every filter, ascending: equal to the value, or one of the list.

        O(n) over one column per filter, vectorised; the last 64 filters are remembered.

        Raises:
            RequestError: a field that no passage has, or a value of another type than the field's.
        """
        frozen = tuple((name, _as_tuple(value)) for name, value in sorted(filters.items()))
        for name, values in frozen:
            self._check_filter(name, values)  # before what is remembered, where 1 and True are the same key
        return self._matching(frozen)

    def _find_matching(self, filters: tuple[tuple[str, tuple[MetadataValue, ...]], ...]) -> NDArray[np.int64]:
        mask: Any = pa.array(np.ones(len(self), dtype=bool))
        for name, values in filters:
            mask = pc.and_(mask, self._passes(name, values))
        return np.flatnonzero(np.asarray(mask)).astype(np.int64)

    def _check_filter(self, name: str, values: tuple[MetadataValue, ...]) -> None:
        if _PREFIX + name not in self._table.column_names:
            known = sorted(n.removeprefix(_PREFIX) for n in self._table.column_names if n.startswith(_PREFIX))
            raise RequestError(
                f"filters.{name}: no passage has this metadata field; there are: {', '.join(known) or 'none'}",
                field=f"filters.{name}",
            )
        type_ = self._table.schema.field(_PREFIX + name).type
        for value in values:
            if value is not None and _TYPES[type(value)] != type_:
                raise RequestError(
                    f"filters.{name} compares with {_describe(type_)}, not {_describe(_TYPES[type(value)])}",
                    field=f"filters.{name}",
                )

    def _passes(self, name: str, values: tuple[MetadataValue, ...]) -> Any:
        column = self._table[_PREFIX + name].combine_chunks()
        wanted = pa.array([_column_value(value) for value in values], type=column.type)
        return pc.is_in(column, value_set=wanted)


def _passage(row: Any, context_ids: Sequence[int] | None) -> Passage:
    values = {name: row[name][0].as_py() for name in row.column_names}
    return Passage(values["id"], values["text"], values["title"], json.loads(values["metadata"]), context_ids)


def _as_tuple(value: MetadataValue | Sequence[MetadataValue]) -> tuple[MetadataValue, ...]:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _describe(type_: pa.DataType) -> str:
    return {pa.string(): "text", pa.bool_(): "true or false"}.get(type_, "a number")


def is_metadata_value(value: object) -> bool:
    """Text, a finite number, a boolean or null: what a filter can compare with."""
    if isinstance(value, str):
        return is_unicode(value)
    try:
        return value is None or (isinstance(value, int | float) and math.isfinite(value))
    except OverflowError:
        return False


def is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which JSON can hold but UTF-8, and so a file, can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
