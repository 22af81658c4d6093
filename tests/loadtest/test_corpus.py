"""The texts that are asked about."""

import gzip
import json
from pathlib import Path

import pytest

from loadtest.corpus import TextFiles, of_usual_length, own_files, read_texts
from service.errors import ConfigError
from service.types import Passage


def test_the_repository_has_texts_of_its_own() -> None:
    texts = read_texts(own_files())
    assert len(texts.passages) > 1000
    assert len(texts.questions) > 100


def test_plain_and_zipped_files_with_and_without_titles(tmp_path: Path) -> None:
    corpus, questions = tmp_path / "corpus.jsonl.gz", tmp_path / "questions.jsonl"
    with gzip.open(corpus, "wt", encoding="utf-8") as file:
        file.write('{"text": "Zürich", "title": "A town"}\n{"text": "Rhine"}\n')
    questions.write_text(json.dumps({"question": "Where?"}) + "\n", encoding="utf-8")
    texts = read_texts(TextFiles(corpus, questions))
    assert texts.passages == (Passage("0", "Zürich", "A town"), Passage("1", "Rhine"))
    assert texts.questions == ("Where?",)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--own-data"):
        read_texts(TextFiles(tmp_path / "none.jsonl", own_files().questions))


def test_lengths_are_kept_in_bounds_where_enough_is_left() -> None:
    passages = [Passage(str(words), "word " * words) for words in (59, 60, 110, 111)]
    assert [passage.id for passage in of_usual_length(passages, least=2)] == ["60", "110"]
    assert of_usual_length(passages, least=3) == tuple(passages)
