"""Vectors in FAISS; the only module that imports it. The CPU and GPU packages share the name."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import structlog
from numpy.typing import NDArray

from service.adapters.passage_store import PassageStore
from service.errors import ConfigError, RetrievalError
from service.ports import Vector
from service.types import NO_FILTER, Filter, RetrievedPassage

log = structlog.get_logger(__name__)

Device = Literal["auto", "cpu", "gpu"]
_MAX_FOUND = 2048  # what FAISS can return from a GPU
_METRICS = {"ip": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


def write_vectors(path: Path, vectors: NDArray[np.float32], metric: str) -> None:
    """An exact (flat) index of `vectors`, (num_passages, dim) float32; row numbers are passage rows."""
    index = faiss.IndexFlat(vectors.shape[1], _METRICS[metric])
    index.add(vectors)
    faiss.write_index(index, str(path))


class FaissIndex:
    """The VectorIndex port: exact search over one built index and its passages.

    `require_files` raises where what is found can't be believed; it is asked before and after every search.
    """

    def __init__(
        self, path: Path, passages: PassageStore, *, version: str, device: Device = "auto",
        require_files: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as exc:
            raise ConfigError(f"{path} is not a FAISS index: {exc}") from exc
        if index.ntotal != len(passages):
            raise ConfigError(f"{path} has {index.ntotal} vectors but there are {len(passages)} passages")
        self._is_l2 = index.metric_type == faiss.METRIC_L2
        self._cpu = index  # filtered searches run here: FAISS has no selectors on GPU
        self._index, self.device = _place(index, device)
        self._passages = passages
        self._version = version
        self._require_files = require_files
        self.dim = int(index.d)

    @property
    def version(self) -> str:
        return self._version

    @property
    def passages(self) -> PassageStore:
        return self._passages

    def __len__(self) -> int:
        return int(self._index.ntotal)

    async def search(self, vector: Vector, top_n: int, filters: Filter) -> list[RetrievedPassage]:
        return await asyncio.to_thread(self._search, vector, top_n, filters)

    def _search(self, vector: Vector, top_n: int, filters: Filter) -> list[RetrievedPassage]:
        self._require_files()
        found = self._found(vector, top_n, filters)
        self._require_files()
        return found

    def _found(self, vector: Vector, top_n: int, filters: Filter) -> list[RetrievedPassage]:
        faiss.omp_set_num_threads(1)  # per thread: parallel over requests, not inside one
        count = min(top_n, len(self))
        rows = None if filters == NO_FILTER else self._passages.matching(filters)
        count = min(count, len(self) if rows is None else len(rows))
        if count == 0:
            return []
        try:
            distances, found = self._with_ties(vector[None, :], count, rows)
        except RuntimeError as exc:
            raise RetrievalError(f"the vector search failed: {exc}") from exc
        return self._retrieved(distances, found, count)

    def _with_ties(
        self, vectors: Any, count: int, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best `count`, and whatever ties with the last of them: FAISS cuts between ties by chance."""
        most = max(min(len(self) if rows is None else len(rows), _MAX_FOUND), count)
        number = min(count + 1, most)
        while True:
            distances, found = self._nearest(vectors, number, rows)
            if number == most or distances[0, -1] != distances[0, count - 1]:
                return distances[0], found[0]
            number = min(2 * number, most)

    def _nearest(self, vectors: Any, count: int, rows: NDArray[np.int64] | None) -> Any:
        if rows is None:
            return self._index.search(vectors, count)
        is_chosen = np.zeros(len(self), dtype=bool)
        is_chosen[rows] = True
        bitmap = np.packbits(is_chosen, bitorder="little")
        chosen = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))  # type: ignore[call-arg, arg-type]
        return self._cpu.search(vectors, count, params=chosen)

    def _retrieved(self, distances: NDArray[np.float32], rows: NDArray[np.int64], count: int) -> list[RetrievedPassage]:
        scores = -distances if self._is_l2 else distances
        order = np.lexsort((rows, -scores))[:count]
        passages = self._passages.passages([int(rows[position]) for position in order])
        return [
            RetrievedPassage(passage, float(scores[position]), rank)
            for rank, (passage, position) in enumerate(zip(passages, order, strict=True), start=1)
        ]


def _place(index: Any, device: Device) -> tuple[Any, Literal["cpu", "gpu"]]:
    """On a GPU if wanted and there.

    Raises:
        ConfigError: a GPU was demanded, but this FAISS or this machine has none.
    """
    num_gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if device == "gpu" and num_gpus == 0:
        raise ConfigError("index.device is gpu, but faiss-gpu or a device is missing", field="index.device")
    if device == "cpu" or num_gpus == 0:
        return index, "cpu"
    log.info("index_on_gpu", num_vectors=index.ntotal)
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index), "gpu"
