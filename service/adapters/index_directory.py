"""An index as one directory: manifest, vectors, passages and their token ids. Written whole or not at all."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from service.adapters.encoder import EncoderConfig, SentenceEncoder
from service.adapters.faiss_index import Device, FaissIndex, write_vectors
from service.adapters.index_files import IndexFiles, check_digests, file_digests
from service.adapters.passage_store import MetadataTypes, PassageStore, is_metadata_value, is_unicode, write_passages
from service.adapters.token_store import OFFSETS, TOKENS, TokensInfo, TokenStore, write_tokens
from service.adapters.tokenizer import PromptTokenizer
from service.core.chunking import Chunker, passage_id
from service.errors import ConfigError, CorpusError
from service.types import Passage

log = structlog.get_logger(__name__)

FORMAT = 1
MANIFEST, VECTORS, PASSAGES = "manifest.json", "vectors.faiss", "passages.arrow"
_ROW_FIELDS = frozenset({"id", "title", "text", "metadata"})


class Manifest(BaseModel):
    """What an index is made of. `version` is a digest of the passages, the vectors and the encoder.

    `tokens` is there where it holds token ids, which save time and change no result. `digests` are the SHA-256 of the
    files beside it, absent in indexes from before there were any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    version: str
    created_at: datetime
    encoder: EncoderConfig
    query_encoder_revision: str
    passage_encoder_revision: str
    dim: int
    max_words: int
    num_documents: int
    num_passages: int
    tokens: TokensInfo | None = None
    digests: dict[str, str] | None = None

    @property
    def mapped(self) -> tuple[str, ...]:
        """The files that are read while the index is in use; the vectors are in memory."""
        return (PASSAGES,) if self.tokens is None else (PASSAGES, TOKENS, OFFSETS)


@dataclass(slots=True)
class Corpus:
    """The passages of a corpus file and what was found on the way."""

    passages: list[Passage] = field(default_factory=list)
    types: MetadataTypes = field(default_factory=MetadataTypes)
    num_documents: int = 0
    skipped: list[str] = field(default_factory=list)


def read_corpus(path: Path, *, max_words: int, skip_bad: bool) -> Corpus:
    """Read `{id, title?, text, metadata?}` rows and cut them into passages.

    Raises:
        CorpusError: `file:line: what` for the first bad row, unless `skip_bad` collects them in `skipped`;
            or there is no usable row at all.
    """
    corpus, chunker = Corpus(), Chunker(max_words)
    lines_of: dict[str, int] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    _read_row(corpus, chunker, lines_of, f"{path}:{number}", number, line, skip_bad)
    except OSError as exc:
        raise CorpusError(f"{path}: {exc.strerror}") from exc
    if not corpus.passages:
        raise CorpusError(f"{path}: no usable row in this file")
    return corpus


def _read_row(
    corpus: Corpus, chunker: Chunker, lines_of: dict[str, int], where: str, number: int, line: bytes, skip_bad: bool
) -> None:
    try:
        document = parse_row(line)
        passages = list(split(document, chunker))
        ids = {document.id, *(passage.id for passage in passages)}  # "a" cut in two, and a document "a#1"
        for id_ in sorted(ids & lines_of.keys()):
            raise CorpusError(f"id {id_!r} was already used in line {lines_of[id_]}")
        corpus.types.check(document.metadata)
    except CorpusError as exc:
        if not skip_bad:
            raise CorpusError(f"{where}: {exc.message}") from exc
        corpus.skipped.append(f"{where}: {exc.message}")
        return
    lines_of.update(dict.fromkeys(ids, number))
    corpus.num_documents += 1
    corpus.passages.extend(passages)


def parse_row(line: bytes) -> Passage:
    """One corpus row, still a whole document.

    Raises:
        CorpusError: says what is wrong with it.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise CorpusError(f"not JSON: {exc}") from exc
    if not isinstance(row, dict):
        raise CorpusError(f"a row is an object, not {type(row).__name__}")
    if unknown := sorted(row.keys() - _ROW_FIELDS):
        raise CorpusError(f"unknown field {unknown[0]!r}; put your own fields into `metadata`")
    for name in ("id", "text"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise CorpusError(f"`{name}` must be a text that is not empty", field=name)
    title = "" if row.get("title") is None else row["title"]
    if not isinstance(title, str):
        raise CorpusError("`title` must be a text", field="title")
    for name, text in (("id", row["id"]), ("title", title), ("text", row["text"])):
        if not is_unicode(text):
            raise CorpusError(f"`{name}` holds half a surrogate pair, which is no character", field=name)
    metadata = {} if row.get("metadata") is None else row["metadata"]
    _check_metadata(metadata)
    return Passage(row["id"], row["text"], title, metadata)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise CorpusError("`metadata` must be an object", field="metadata")
    for name, value in metadata.items():
        if not is_unicode(name) or not is_metadata_value(value):
            raise CorpusError(f"metadata.{name} must be a text, a number, true, false or null")


def split(document: Passage, chunker: Chunker) -> Iterator[Passage]:
    chunks = chunker.chunks(document.text)
    for number, chunk in enumerate(chunks):
        id_ = passage_id(document.id, number, len(chunks))
        yield Passage(id_, chunk, document.title, document.metadata)


def build_index(
    corpus: Corpus, out: Path, encoder: EncoderConfig, *, max_words: int, tokenizer: PromptTokenizer | None = None,
    progress: Callable[[Sequence[Passage]], Iterator[Sequence[Passage]]] | None = None, batch_size: int = 64,
) -> Manifest:  # fmt: skip
    """Encode and write everything beside `out`, then put it in place of what was there.

    `progress` wraps the batches that are encoded. A build that dies leaves the old index as it was. Token ids are
    written with a `tokenizer` that can make them of passages alone.

    Raises:
        ConfigError: the encoder can't be had, or `out` holds something that is no index. RetrievalError: the
            encoder failed.
    """
    _check_replaceable(out)
    passage_encoder = SentenceEncoder(encoder, "passage")
    query_revision = SentenceEncoder(encoder, "query").revision if encoder.passage_model else passage_encoder.revision
    out = out.resolve()  # a link stays a link: what it points to is replaced
    out.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(out) as directory:
        write_passages(directory / PASSAGES, corpus.passages, corpus.types)
        vectors = _encode(corpus.passages, passage_encoder, batch_size, progress)
        write_vectors(directory / VECTORS, vectors, encoder.metric)
        tokens = _write_tokens(directory, corpus.passages, tokenizer)
        manifest = Manifest(
            format=FORMAT,
            version=_version(directory, encoder, query_revision),
            created_at=datetime.now(UTC),
            encoder=encoder,
            query_encoder_revision=query_revision,
            passage_encoder_revision=passage_encoder.revision,
            dim=vectors.shape[1],
            max_words=max_words,
            num_documents=corpus.num_documents,
            num_passages=len(corpus.passages),
            tokens=tokens,
            digests=file_digests(directory, sorted(path.name for path in directory.iterdir())),
        )
        (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _write_tokens(directory: Path, passages: Sequence[Passage], tokenizer: PromptTokenizer | None) -> TokensInfo | None:
    if tokenizer is None or not tokenizer.is_segmentable:
        return None
    return write_tokens(directory, passages, tokenizer)


def _encode(
    passages: Sequence[Passage], encoder: SentenceEncoder, batch_size: int,
    progress: Callable[[Sequence[Passage]], Iterator[Sequence[Passage]]] | None,
) -> NDArray[np.float32]:  # fmt: skip
    """(num_passages, dim) float32; the text encoded is the title, a full stop and the passage."""
    batches: Any = (passages[start : start + batch_size] for start in range(0, len(passages), batch_size))
    done = [encoder.encode([embedded_text(p) for p in batch]) for batch in (progress(batches) if progress else batches)]
    return np.concatenate(done)


def embedded_text(passage: Passage) -> str:
    """What is encoded of a passage: its title too, since a chunk of a document rarely repeats it."""
    return f"{passage.title}. {passage.text}" if passage.title else passage.text


def _version(directory: Path, encoder: EncoderConfig, query_revision: str) -> str:
    digest = hashlib.sha256(f"{encoder.model_dump_json()}{query_revision}".encode())
    for name in (PASSAGES, VECTORS):
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _check_replaceable(out: Path) -> None:
    """Only an index or nothing may be replaced: what else is there, was named by mistake."""
    is_replaceable = not out.exists() or (out / MANIFEST).is_file() or (out.is_dir() and not any(out.iterdir()))
    if not is_replaceable:
        raise ConfigError(f"{out} exists and is not an index: it is left alone, choose another directory", field="out")


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A fresh directory beside `out` that takes its place at the end, and vanishes on any error."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.building-", dir=out.parent))
    old = fresh.with_name(fresh.name.replace(".building-", ".old-"))
    try:
        yield fresh
        fresh.chmod(0o755)
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def read_manifest(directory: Path) -> Manifest:
    """Raises ConfigError where there is no index, or one of another format."""
    path = directory / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ConfigError(f"{path}: format {document['format']}, this service reads {FORMAT}: build it again")
        return Manifest.model_validate(document)
    except OSError as exc:
        raise ConfigError(f"{directory} holds no index (no {MANIFEST}): {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, ValidationError) as exc:
        raise ConfigError(f"{path} can't be read: {exc}") from exc


@dataclass(frozen=True, slots=True)
class OpenIndex:
    """A built index, ready to search, with the encoder its questions need. `files` are to be watched."""

    manifest: Manifest
    index: FaissIndex
    encoder: SentenceEncoder
    files: IndexFiles


def open_index(
    directory: Path, *, device: Device, encoder_device: str | None, fingerprint: str | None = None, verify: bool = True
) -> OpenIndex:
    """Open an index and load its query encoder.

    Its token ids are used if they were made by the tokenizer with this `fingerprint`. With `verify` every file is read
    and compared with what was written.

    Raises:
        ConfigError: it is not an index, its files don't fit together, or the encoder is not the one that it
            was built with.
    """
    manifest = read_manifest(directory)
    files = IndexFiles(directory, manifest.mapped, manifest.digests)
    if verify and manifest.digests is not None:
        check_digests(directory, manifest.digests)
    encoder = SentenceEncoder(manifest.encoder, "query", encoder_device)
    if encoder.revision != manifest.query_encoder_revision:
        raise ConfigError(
            f"{directory} was built for the encoder {manifest.encoder.model} at {manifest.query_encoder_revision}, "
            f"but here it is at {encoder.revision}: build the index again"
        )
    if encoder.dim != manifest.dim:  # also the encoder's slow first run, before the first question
        raise ConfigError(f"{directory} has {manifest.dim}-d vectors, its encoder makes {encoder.dim}-d ones")
    passages = PassageStore(directory / PASSAGES, _open_tokens(directory, manifest, fingerprint))
    index = FaissIndex(
        directory / VECTORS, passages, version=manifest.version, device=device, require_files=files.require
    )
    return OpenIndex(manifest, index, encoder, files)


def _open_tokens(directory: Path, manifest: Manifest, fingerprint: str | None) -> TokenStore | None:
    if manifest.tokens is None or fingerprint is None:
        return None
    if manifest.tokens.fingerprint != fingerprint:
        log.warning(
            "index_tokens_ignored",
            index=str(directory),
            reason="made with another tokenizer or prompts: passages are tokenised as they are asked for",
        )
        return None
    return TokenStore(directory, manifest.tokens)
