"""Lines of data files, and errors that name the file, the line and the field."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from service.errors import CorpusError
from service.types import Passage


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file; `where` is `file:line`, with the path inside the line for a nested one."""

    where: str
    fields: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def bad(self, name: str, wanted: str) -> CorpusError:
        return CorpusError(f"{self.where}: `{name}` must be {wanted}, not {self.fields.get(name)!r:.80}", field=name)

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty, or `default` where the field is missing or null."""
        if name not in self and default is not None:
            return default
        value = self.fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):  # ids are often numbers
            return str(value)
        if not isinstance(value, str) or (not value.strip() and default is None):
            raise self.bad(name, "a text that is not empty")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, or one text; none where the field is missing."""
        value = self.fields.get(name)
        values = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            raise self.bad(name, "a list of texts")
        return tuple(text for text in values if text.strip())

    def flag(self, name: str, default: bool) -> bool:
        value = self.fields.get(name, default)
        if value not in (True, False, 0, 1):
            raise self.bad(name, "true or false")
        return bool(value)

    def rows(self, name: str) -> list["Row"]:
        """A list of objects; none where the field is missing."""
        values = self.fields.get(name)
        if values is None:
            return []
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.bad(name, "a list of objects")
        return [Row(f"{self.where}: {name}[{index}]", value) for index, value in enumerate(values)]

    def passage(self, id_: str = "") -> Passage:
        """`{id, title?, text}`; `id_` where the row has none."""
        return Passage(self.text("id", id_ or None), self.text("text"), self.text("title", ""))


def json_rows(path: Path) -> Iterator[Row]:
    """Objects of a JSONL file, or of one JSON list; `.gz` is unpacked.

    Raises:
        CorpusError: the file can't be read, or a line is not a JSON object.
    """
    with opened(path) as lines:
        first = lines.read(1)
        lines.seek(0)
        if first == "[":
            values = _parsed(lines.read(), str(path))
            yield from (_row(f"{path}: item {number}", value) for number, value in enumerate(values, start=1))
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _row(f"{path}:{number}", _parsed(line, f"{path}:{number}"))


def json_document(path: Path) -> Row:
    """A file that is one JSON object."""
    with opened(path) as file:
        return _row(str(path), _parsed(file.read(), str(path)))


def tsv_rows(path: Path, names: Sequence[str]) -> Iterator[Row]:
    """Lines of tab separated texts, without quoting; more columns than `names` are ignored."""
    with opened(path) as lines:
        for number, cells in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if len(cells) < len(names):
                raise CorpusError(f"{path}:{number}: {len(cells)} columns, wanted {len(names)} ({', '.join(names)})")
            yield Row(f"{path}:{number}", dict(zip(names, cells, strict=False)))


def opened(path: Path) -> IO[str]:
    try:
        return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    except OSError as exc:
        raise CorpusError(f"{path}: {exc.strerror}") from exc


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise CorpusError(f"{where}: not JSON: {exc}") from exc


def _row(where: str, value: object) -> Row:
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: a row is an object, not {type(value).__name__}")
    return Row(where, value)
