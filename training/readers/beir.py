"""A BEIR directory: `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv` (https://github.com/beir-cellar/beir)."""

from collections import defaultdict
from pathlib import Path

from service.errors import CorpusError
from service.types import Passage
from training.readers.rows import Row, json_rows, tsv_rows
from training.records import Question, Rows


def read_beir(directory: Path, split: str) -> Rows:
    corpus = {passage.id: passage for passage in map(_passage, json_rows(directory / "corpus.jsonl"))}
    queries = {row.text("_id"): row.text("text") for row in json_rows(directory / "queries.jsonl")}
    judged: dict[str, dict[str, bool]] = defaultdict(dict)
    for number, row in enumerate(tsv_rows(directory / "qrels" / f"{split}.tsv", ("query-id", "corpus-id", "score"))):
        if number == 0 and row.text("score") == "score":  # the header
            continue
        if row.text("query-id") not in queries or row.text("corpus-id") not in corpus:
            raise CorpusError(f"{row.where}: `query-id` or `corpus-id` is not in this directory", field="query-id")
        judged[row.text("query-id")][row.text("corpus-id")] = float(row.text("score")) > 0
    questions = (
        Question(
            id_, queries[id_],
            relevant=tuple(corpus[docid] for docid, label in labels.items() if label),
            irrelevant=tuple(corpus[docid] for docid, label in labels.items() if not label),
        )
        for id_, labels in judged.items()
    )  # fmt: skip
    return Rows(questions=tuple(questions), corpus=tuple(corpus.values()))


def _passage(row: Row) -> Passage:
    return Passage(row.text("_id"), row.text("text"), row.text("title", ""))
