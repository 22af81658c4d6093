"""Exact search in FAISS."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.adapters.faiss_index import FaissIndex, write_vectors
from service.adapters.passage_store import MetadataTypes, PassageStore, write_passages
from service.errors import ConfigError, RequestError
from service.types import NO_FILTER, Passage, RetrievedPassage
from tests.filtering import where

Vectors = NDArray[np.float32]
METRICS: dict[str, Callable[[Vectors, Vectors], Vectors]] = {
    "ip": lambda vectors, query: vectors @ query,
    "l2": lambda vectors, query: -((vectors - query) ** 2).sum(axis=1),
}


def index_of(directory: Path, vectors: Vectors, metric: str = "ip", num_passages: int | None = None) -> FaissIndex:
    """An index whose passage n has id n and metadata {"odd": n is odd}."""
    passages = [Passage(str(row), "text", "", {"odd": row % 2 == 1}) for row in range(num_passages or len(vectors))]
    types = MetadataTypes()
    types.check({"odd": True})
    write_passages(directory / "passages", passages, types)
    write_vectors(directory / "vectors", vectors, metric)
    return FaissIndex(directory / "vectors", PassageStore(directory / "passages"), version="v1")


def vectors_of(*rows: tuple[float, ...]) -> Vectors:
    return np.array(rows, dtype=np.float32)


def ids(found: list[RetrievedPassage]) -> list[str]:
    return [passage.passage.id for passage in found]


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=40),
    query=st.tuples(*[st.integers(-2, 2)] * 3),
    top_n=st.integers(1, 50),
    filters=st.sampled_from([{}, {"odd": True}, {"odd": [False, True]}]),
)
async def test_search_is_the_brute_force_order_with_ties_by_row(
    metric: str, rows: list[tuple[int, int, int]], query: tuple[int, int, int], top_n: int, filters: dict[str, Any]
) -> None:
    vectors, vector = np.array(rows, dtype=np.float32), np.array(query, dtype=np.float32)
    scores = METRICS[metric](vectors, vector)
    allowed = [row for row in range(len(rows)) if row % 2 == 1 or filters != {"odd": True}]
    expected = sorted(allowed, key=lambda row: (-scores[row], row))[:top_n]
    with TemporaryDirectory() as directory:
        found = await index_of(Path(directory), vectors, metric).search(vector, top_n, where(filters))
    assert ids(found) == [str(row) for row in expected]
    assert [passage.retrieval_score for passage in found] == [scores[row] for row in expected]
    assert [passage.retrieval_rank for passage in found] == list(range(1, len(found) + 1))


async def test_many_ties_at_the_cut_keep_the_first_rows(tmp_path: Path) -> None:
    index = index_of(tmp_path, vectors_of(*[(1.0, 0.0)] * 500, (2.0, 0.0)))
    assert ids(await index.search(vectors_of((1.0, 0.0))[0], 4, NO_FILTER)) == ["500", "0", "1", "2"]


async def test_top_n_above_the_count_gives_all(tmp_path: Path) -> None:
    index = index_of(tmp_path, vectors_of((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)))
    assert ids(await index.search(vectors_of((1.0, 0.0))[0], 100, NO_FILTER)) == ["0", "2", "1"]
    assert ids(await index.search(vectors_of((1.0, 0.0))[0], 100, where({"odd": True}))) == ["1"]


async def test_filter_that_nothing_passes_gives_nothing(tmp_path: Path) -> None:
    index = index_of(tmp_path, vectors_of((1.0, 0.0)))
    assert await index.search(vectors_of((1.0, 0.0))[0], 5, where({"odd": True})) == []


async def test_wrong_filter_is_a_request_error(tmp_path: Path) -> None:
    index = index_of(tmp_path, vectors_of((1.0, 0.0)))
    with pytest.raises(RequestError, match=r"filters\.colour"):
        await index.search(vectors_of((1.0, 0.0))[0], 5, where({"colour": "red"}))


async def test_vector_from_a_cache_can_be_searched_with(tmp_path: Path) -> None:
    index = index_of(tmp_path, vectors_of((1.0, 0.0), (0.0, 1.0)))
    read_only = np.frombuffer(vectors_of((0.0, 1.0)).tobytes(), dtype=np.float32)
    assert ids(await index.search(read_only, 1, NO_FILTER)) == ["1"]


def test_it_knows_its_size_version_and_device(tmp_path: Path) -> None:
    index = index_of(tmp_path, vectors_of((1.0, 0.0), (0.0, 1.0)))
    assert (len(index), index.dim, index.version, index.device) == (2, 2, "v1", "cpu")


def test_gpu_demanded_without_one_is_a_config_error(tmp_path: Path) -> None:
    index_of(tmp_path, vectors_of((1.0, 0.0)))
    with pytest.raises(ConfigError, match="faiss-gpu or a device is missing") as caught:
        FaissIndex(tmp_path / "vectors", PassageStore(tmp_path / "passages"), version="v1", device="gpu")
    assert caught.value.field == "index.device"


def test_vectors_and_passages_of_different_number_are_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 vectors but there are 3 passages"):
        index_of(tmp_path, vectors_of((1.0, 0.0), (0.0, 1.0)), num_passages=3)


@pytest.mark.parametrize("content", [None, b"", b"no index at all"])
def test_file_that_is_no_index_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    index_of(tmp_path, vectors_of((1.0, 0.0)))
    (tmp_path / "vectors").unlink()
    if content is not None:
        (tmp_path / "vectors").write_bytes(content)
    with pytest.raises(ConfigError, match="is not a FAISS index"):
        FaissIndex(tmp_path / "vectors", PassageStore(tmp_path / "passages"), version="v1")
