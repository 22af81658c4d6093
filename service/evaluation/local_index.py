"""An index in this process: for retrieval alone, and for contexts that must hold a certain passage."""

import time
from dataclasses import dataclass
from pathlib import Path

from service.adapters.index_directory import open_index
from service.adapters.memory_cache import MemoryCache
from service.adapters.passage_store import PassageStore
from service.adapters.query_encoder import QueryEncoder
from service.core.cache_keys import CacheKeys
from service.errors import ConfigError
from service.pipeline import Retriever

NO_KEYS = CacheKeys(checkpoint="", prompts="", index="", encoder="")


@dataclass(frozen=True, slots=True)
class LocalIndex:
    """What finds passages, and the passages themselves."""

    retriever: Retriever
    passages: PassageStore


def open_local_index(index: Path, fingerprint: str | None = None) -> LocalIndex:
    """Its token ids are used if they were made by the tokenizer with this `fingerprint`. Raises ConfigError."""
    opened = open_index(index, device="auto", encoder_device=None, fingerprint=fingerprint)
    encoder = QueryEncoder(opened.encoder, no_cache(), NO_KEYS, time.monotonic)
    return LocalIndex(Retriever(encoder, opened.index), opened.index.passages)


def no_cache() -> MemoryCache:
    """One that keeps nothing."""
    return MemoryCache({"answer": 0, "embedding": 0}, max_entries=1)


@dataclass(frozen=True, slots=True)
class IndexTarget:
    """Retrieval without a checkpoint; without an index either, for questions that bring their candidates."""

    local: LocalIndex | None
    checkpoint: str = ""

    async def retrieve(self, question: str, top_n: int) -> tuple[str, ...]:
        if self.local is None:
            raise ConfigError("there is no index: give --index or --url, or rows with candidates", field="index")
        return tuple(found.passage.id for found in await self.local.retriever.find(question, top_n))
