"""The texts that are asked about: public ones beside the repository, or the repository's own demo."""

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import ConfigError
from service.types import Passage

ROOT = Path(__file__).parents[1]
MIN_WORDS, MAX_WORDS = 60, 110


@dataclass(frozen=True, slots=True)
class Texts:
    passages: tuple[Passage, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextFiles:
    """JSONL, gzipped where the name says so: passages {text, title?}, questions {question}."""

    corpus: Path
    questions: Path


def own_files() -> TextFiles:
    return TextFiles(ROOT / "demo" / "corpus.jsonl", ROOT / "demo" / "questions.jsonl")


def public_files() -> TextFiles:
    data = Path(os.environ.get("RANKRAG_DATA", ROOT.parent / "shared" / "data"))
    return TextFiles(data / "corpus" / "passages.jsonl.gz", data / "load" / "questions.jsonl")


_INSTEAD = "give --corpus and --questions, set RANKRAG_DATA, or use --own-data"


def read_texts(files: TextFiles) -> Texts:
    """Questions, and passages of 60 to 110 words; of a corpus without such, as the demo's is, all passages.

    Raises:
        ConfigError: a file is missing or holds nothing.
    """
    passages = tuple(
        Passage(str(number), row["text"], row.get("title") or "")
        for number, row in enumerate(read_rows(files.corpus, _INSTEAD))
    )
    questions = tuple(row["question"] for row in read_rows(files.questions, _INSTEAD))
    if not passages or not questions:
        raise ConfigError(f"{files.corpus} and {files.questions} must hold passages and questions")
    return Texts(of_usual_length(passages), questions)


def of_usual_length(passages: Sequence[Passage], *, least: int = 1000) -> tuple[Passage, ...]:
    """Passages of 60 to 110 words, or all where there are fewer than `least` of them."""
    usual = tuple(passage for passage in passages if MIN_WORDS <= len(passage.text.split()) <= MAX_WORDS)
    return usual if len(usual) >= least else tuple(passages)


def read_rows(path: Path, instead: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, compressed or not; `instead` says what to do where it is missing.

    Raises:
        ConfigError: there is none.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: {instead}")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
