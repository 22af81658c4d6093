"""Searches within filters, on as many passages as a real corpus has, against brute force."""

import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.adapters.faiss_index import FaissIndex, write_vectors
from service.adapters.passage_store import MetadataTypes, PassageStore, write_passages
from service.types import Filter, Metadata, Passage
from tests.filtering import passes, where

# Real passages where they are at hand: JSONL with `text`, `title` and `source`.
CORPUS = Path(os.environ.get("RANKRAG_TEST_CORPUS", Path(__file__).parents[3] / "shared/data/corpus/passages.jsonl.gz"))
NUM_PASSAGES, NUM_FILTERS, DIM, TOP_N = 90_000, 200, 8, 20
SOURCES = ["squad", "peps", "medquad", "multihop", "scifact", "fairytaleqa", "pubmedqa", "covidqa", "squadshifts"]
INITIALS = ("A", "C", "T")


def texts() -> Iterator[tuple[str, str, str]]:
    """Title, text and source."""
    if CORPUS.is_file():
        with gzip.open(CORPUS, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield row["title"], row["text"], row["source"]
    else:
        for number in range(NUM_PASSAGES):
            length = 5 + number * number % 331
            yield f"Title {number % 900}", "word " * length, SOURCES[number * number % 7 % len(SOURCES)]


def metadata_of(title: str, text: str, source: str, chance: random.Random) -> Metadata:
    """What can be known of any passage, and a year that some don't have. Some thousands of passages are alike."""
    year = {"year": chance.randrange(1900, 2020, 10)} if chance.random() < 0.8 else {}
    initial = {"initial": title[0]} if title[:1] in INITIALS else {}
    num_words = min(len(text.split()) // 50 * 50, 300)
    return {"source": source, "words": num_words, "is_long": num_words >= 200, **year, **initial}


class Searched:
    """An index with vectors of whole numbers, so that scores are exact and many tie."""

    def __init__(self, directory: Path) -> None:
        chance, types = random.Random(0), MetadataTypes()
        passages = [
            Passage(str(row), text[:40], title[:20], metadata_of(title, text, source, chance))
            for row, (title, text, source) in zip(range(NUM_PASSAGES), texts(), strict=False)
        ]
        assert len(passages) == NUM_PASSAGES
        keys = [tuple(passage.metadata.items()) for passage in passages]
        self.distinct = list(dict.fromkeys(keys))
        numbers = {key: number for number, key in enumerate(self.distinct)}
        self.kinds = np.array([numbers[key] for key in keys])
        for passage in passages:
            types.check(passage.metadata)
        self.vectors = np.random.default_rng(0).integers(-20, 21, (NUM_PASSAGES, DIM)).astype(np.float32)
        write_passages(directory / "passages", passages, types)
        write_vectors(directory / "vectors", self.vectors, "ip")
        self.index = FaissIndex(directory / "vectors", PassageStore(directory / "passages"), version="v1")

    def brute_force(self, vector: NDArray[np.float32], filter_: Filter) -> list[str]:
        """Of all rows those that pass, by falling score; ties by row. Rows with equal metadata pass alike."""
        is_passing = np.array([passes(dict(metadata), filter_) for metadata in self.distinct])
        rows = np.flatnonzero(is_passing[self.kinds])
        order = np.lexsort((rows, -(self.vectors[rows] @ vector)))
        return [str(row) for row in rows[order][:TOP_N]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return Searched(tmp_path_factory.mktemp("index"))


def random_filter(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """One to three conditions, or fewer with `and`, `or` and `not` of such beside them."""
    fields = chance.sample(["source", "words", "is_long", "year", "initial"], chance.randint(1, 2 if depth else 3))
    made = {field: random_condition(field, chance) for field in fields}
    if depth < 3 and chance.random() < 0.6:
        made = dict(list(made.items())[: chance.randint(0, 1)])
        for operator in chance.sample(["and", "or", "not"], chance.randint(1, 2)):
            parts = [random_filter(chance, depth + 1) for _ in range(chance.randint(1, 3))]
            made[operator] = parts[0] if operator == "not" else parts
    return made


def random_condition(field: str, chance: random.Random) -> Any:
    values: dict[str, list[Any]] = {
        "source": SOURCES, "words": list(range(0, 301, 50)), "is_long": [True, False],
        "year": list(range(1895, 2025, 5)), "initial": [*INITIALS, "B", "é"],
    }  # fmt: skip
    choices = [*values[field], None]
    if field == "is_long" or chance.random() < 0.4:
        wanted = chance.sample(choices, chance.randint(1, min(5, len(choices))))
        return chance.choice([wanted[0], wanted, {"in": wanted}])
    low, high = sorted(chance.sample(values[field], 2))
    return chance.choice([{"gte": low}, {"lt": high}, {"gt": low, "lte": high}, {"gte": low, "lt": high}])


async def test_two_hundred_random_filters_find_what_brute_force_finds(searched: Searched) -> None:
    chance, numbers = random.Random(1), np.random.default_rng(1)
    num_found = []
    for _ in range(NUM_FILTERS):
        filter_ = where(random_filter(chance))
        vector = numbers.integers(-20, 21, DIM).astype(np.float32)
        found = await searched.index.search(vector, TOP_N, filter_)
        assert [one.passage.id for one in found] == searched.brute_force(vector, filter_), filter_
        num_found.append(len(found))
    assert num_found.count(TOP_N) > NUM_FILTERS / 2  # and not because nothing passed
    assert len(set(num_found)) > 1
