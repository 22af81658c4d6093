"""SQuAD JSON, version 1 or 2 (`is_impossible`): https://rajpurkar.github.io/SQuAD-explorer/."""

from collections.abc import Iterator
from pathlib import Path

from service.types import Passage
from training.readers.rows import Row, json_document
from training.records import Question, Rows


def read_squad(path: Path) -> Rows:
    corpus: list[Passage] = []
    questions: list[Question] = []
    for article in json_document(path).rows("data"):
        title = article.text("title", "").replace("_", " ")
        for paragraph in article.rows("paragraphs"):
            passage = Passage(f"{path.stem}-{len(corpus)}", paragraph.text("context"), title)
            corpus.append(passage)
            questions += _questions(paragraph, passage)
    return Rows(questions=tuple(questions), corpus=tuple(corpus))


def _questions(paragraph: Row, passage: Passage) -> Iterator[Question]:
    for row in paragraph.rows("qas"):
        is_answerable = not row.flag("is_impossible", default=False)
        answers = tuple(dict.fromkeys(answer.text("text") for answer in row.rows("answers")))
        if is_answerable and not answers:
            raise row.bad("answers", "a list with an answer")
        yield Question(
            row.text("id"), row.text("question"), answers if is_answerable else (),
            relevant=(passage,) if is_answerable else (), irrelevant=() if is_answerable else (passage,),
            is_answerable=is_answerable,
        )  # fmt: skip
