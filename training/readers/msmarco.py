"""MS MARCO passage ranking: https://microsoft.github.io/msmarco/Datasets. Only the passages named are kept."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

from service.types import Passage
from training.readers.rows import Row, tsv_rows
from training.records import Question, Rows


def read_text_triples(path: Path, max_rows: int | None) -> Rows:
    """`triples.train.small.tsv`: query, relevant passage, irrelevant passage, as texts."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in islice(tsv_rows(path, ("query", "positive", "negative")), max_rows):
        relevant, irrelevant = found.setdefault(row.text("query"), ({}, {}))
        relevant[row.text("positive")] = None
        irrelevant[row.text("negative")] = None
    questions = (
        Question(
            f"msmarco-{number}", query,
            relevant=tuple(Passage(f"{number}+{index}", text) for index, text in enumerate(relevant)),
            irrelevant=tuple(Passage(f"{number}-{index}", text) for index, text in enumerate(irrelevant)),
        )
        for number, (query, (relevant, irrelevant)) in enumerate(found.items())
    )  # fmt: skip
    return Rows(questions=tuple(questions))


def read_id_triples(path: Path, queries: Path, collection: Path, max_rows: int | None) -> Rows:
    """`qidpidtriples.train.full.2.tsv`: query id, relevant and irrelevant passage id."""
    judged: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in islice(tsv_rows(path, ("query id", "positive id", "negative id")), max_rows):
        judged[row.text("query id")] |= {row.text("negative id"): False, row.text("positive id"): True}
    return _questions(judged, queries, collection, mined=False)


def read_qrels(path: Path, queries: Path, collection: Path, max_rows: int | None) -> Rows:
    """`qrels.train.tsv` (query id, 0, passage id, label), with the whole collection to mine negatives from."""
    judged: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in tsv_rows(path, ("query id", "iteration", "passage id", "label")):
        if max_rows is not None and len(judged) == max_rows and row.text("query id") not in judged:
            break
        judged[row.text("query id")][row.text("passage id")] = _is_relevant(row, "label")
    return _questions(judged, queries, collection, mined=True)


def _is_relevant(row: Row, name: str) -> bool:
    try:
        return int(row.text(name)) > 0
    except ValueError as exc:
        raise row.bad(name, "a whole number") from exc


def _questions(judged: Mapping[str, Mapping[str, bool]], queries: Path, collection: Path, *, mined: bool) -> Rows:
    texts = _texts(queries, judged)
    passages = _texts(collection, None if mined else {id_ for labels in judged.values() for id_ in labels})
    questions = tuple(
        Question(
            f"msmarco-{id_}", texts[id_],
            relevant=tuple(Passage(pid, passages[pid]) for pid, label in labels.items() if label and pid in passages),
            irrelevant=tuple(Passage(p, passages[p]) for p, label in labels.items() if not label and p in passages),
        )
        for id_, labels in judged.items()
        if id_ in texts
    )  # fmt: skip
    return Rows(questions, corpus=tuple(Passage(id_, text) for id_, text in passages.items()) if mined else ())


def _texts(path: Path, wanted: Iterable[str] | None) -> dict[str, str]:
    kept = None if wanted is None else frozenset(wanted)
    rows = tsv_rows(path, ("id", "text"))
    return {row.text("id"): row.text("text") for row in rows if kept is None or row.text("id") in kept}
