"""Passages on disk: one Arrow file, memory-mapped, so that it opens in milliseconds at any size.

Columns: `id`, `title`, `text`, `metadata` (JSON, returned as it was given), and one `meta.NAME` column of a
single type for each metadata field, which filters are evaluated on.
"""

import json
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.adapters.token_store import TokenStore
from service.core.filters import COLUMN_TYPES, check_fields, column_value, describe, passing
from service.errors import ConfigError, CorpusError
from service.types import Filter, Metadata, Passage

_PREFIX = "meta."
_ROWS_PER_BATCH = 65_536


class MetadataTypes:
    """The type of each metadata field, fixed by the first value seen: text, number or boolean."""

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}

    def check(self, metadata: Metadata) -> None:
        """Raises CorpusError where a field's value is of another kind than in an earlier row."""
        given = {name: COLUMN_TYPES[type(value)] for name, value in metadata.items() if value is not None}
        for name, type_ in given.items():
            wanted = self.types.get(name, type_)
            if wanted != type_:
                raise CorpusError(
                    f"metadata.{name} is {describe(type_)} here but {describe(wanted)} in an earlier row",
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
    return row | {_PREFIX + name: column_value(value) for name, value in metadata.items()}


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
        self._types = {
            column.name.removeprefix(_PREFIX): column.type
            for column in self._table.schema
            if column.name.startswith(_PREFIX)
        }
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

    def matching(self, filter_: Filter) -> NDArray[np.int64]:
        """Rows whose metadata passes, ascending. The last 64 filters are remembered.

        Raises:
            RequestError: a field that no passage has, or a value that its values can't be compared with.
        """
        check_fields(filter_, self._types)  # before what is remembered, where 1 and True are the same key
        return self._matching(filter_)

    def _find_matching(self, filter_: Filter) -> NDArray[np.int64]:
        return passing(filter_, lambda name: self._table[_PREFIX + name], len(self))


def _passage(row: Any, context_ids: Sequence[int] | None) -> Passage:
    values = {name: row[name][0].as_py() for name in row.column_names}
    return Passage(values["id"], values["text"], values["title"], json.loads(values["metadata"]), context_ids)


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
