"""Questions with answers and no fixed passage, in the three shapes they are usually found in.

- Natural Questions open: `{question, answer: [..]}` or `{question, answers: [..]}`;
- KILT: `{id, input, output: [{answer, provenance: [{wikipedia_id}]}]}`;
- DPR: `{question, answers, positive_ctxs: [{title, text}], hard_negative_ctxs: [..]}`.

With a corpus, KILT's provenance names relevant passages by id; negatives are mined. Questions without any relevant
passage still train abstention.
"""

from collections.abc import Mapping
from pathlib import Path

from service.types import Passage
from training.readers.project import read_passages
from training.readers.rows import Row, json_rows
from training.records import Question, Rows


def read_open_qa(path: Path, passages: Path | None) -> Rows:
    corpus = read_passages(passages) if passages is not None else {}
    questions = tuple(_question(row, number, corpus) for number, row in enumerate(json_rows(path)))
    return Rows(questions=questions, corpus=tuple(corpus.values()))


def _question(row: Row, number: int, corpus: Mapping[str, Passage]) -> Question:
    id_ = row.text("id", f"open-{number}")
    if "input" in row:
        return _kilt(row, id_, corpus)
    answers = row.texts("answers") or row.texts("answer")
    if not answers:
        raise row.bad("answers", "a list with an answer")
    negatives = "hard_negative_ctxs" if row.rows("hard_negative_ctxs") else "negative_ctxs"
    return Question(
        id_, row.text("question"), answers,
        relevant=_contexts(row, "positive_ctxs", id_), irrelevant=_contexts(row, negatives, id_),
    )  # fmt: skip


def _contexts(row: Row, name: str, id_: str) -> tuple[Passage, ...]:
    return tuple(
        Passage(context.text("passage_id", f"{id_}-{name}-{index}"), context.text("text"), context.text("title", ""))
        for index, context in enumerate(row.rows(name))
    )


def _kilt(row: Row, id_: str, corpus: Mapping[str, Passage]) -> Question:
    outputs = row.rows("output")
    answers = tuple(dict.fromkeys(output.text("answer") for output in outputs if "answer" in output))
    if not answers:
        raise row.bad("output", "a list with an answer")
    pages = [page.text("wikipedia_id") for output in outputs for page in output.rows("provenance")]
    relevant = tuple(corpus[page] for page in dict.fromkeys(pages) if page in corpus)
    return Question(id_, row.text("input"), answers, relevant=relevant)
