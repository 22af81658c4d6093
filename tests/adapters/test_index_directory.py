"""Corpus to index directory and back: bad rows are named, and a build is whole or did not happen."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs
from tokenizers import Tokenizer, models, pre_tokenizers

from service.adapters import index_directory
from service.adapters.encoder import EncoderConfig
from service.adapters.index_directory import Corpus, Manifest, build_index, open_index, read_corpus, read_manifest
from service.adapters.tokenizer import PromptTokenizer
from service.errors import ConfigError, CorpusError, IndexUnavailableError, RetrievalError
from service.types import NO_FILTER, Passage
from tests.fake_vllm import prompt_tokenizer
from tests.fakes import rankrag_prompts

GOOD = {"id": "a", "title": "Mont Blanc", "text": "It rises to 4,806 metres.", "metadata": {"kind": "mountain"}}


class LetterEncoder:
    """In place of the model: a text becomes the counts of its letters. Fails on a text that holds `fatal`."""

    dim = 26
    fatal = "out of memory"
    revisions: dict[str, str] = {"letters": "revision-1", "other": "revision-2"}  # noqa: RUF012

    def __init__(self, config: EncoderConfig, side: str, device: str | None = None) -> None:
        del device
        model = config.passage_model if side == "passage" and config.passage_model else config.model
        self.revision = self.revisions[model]

    def encode(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.float32]:
        del batch_size
        if any(self.fatal in text for text in texts):
            raise RetrievalError("the encoder failed: out of memory")
        counts = [[text.casefold().count(chr(ord("a") + letter)) for letter in range(26)] for text in texts]
        return np.array(counts, dtype=np.float32)


LETTERS = EncoderConfig(model="letters", normalize=False)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_directory, "SentenceEncoder", LetterEncoder)


def write_rows(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_rows(tmp_path: Path, *rows: Any, max_words: int = 100, skip_bad: bool = False) -> Corpus:
    return read_corpus(write_rows(tmp_path / "corpus.jsonl", *rows), max_words=max_words, skip_bad=skip_bad)


# Reading


def test_row_becomes_a_passage(tmp_path: Path) -> None:
    corpus = read_rows(tmp_path, GOOD, {"id": "b", "text": "Only a text."}, {**GOOD, "id": "c", "title": None})
    assert corpus.passages == [
        Passage("a", "It rises to 4,806 metres.", "Mont Blanc", {"kind": "mountain"}),
        Passage("b", "Only a text."),
        Passage("c", "It rises to 4,806 metres.", "", {"kind": "mountain"}),
    ]
    assert (corpus.num_documents, corpus.skipped) == (3, [])


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n  \n")
    assert read_corpus(path, max_words=100, skip_bad=False).num_documents == 1


def test_long_document_becomes_numbered_passages_with_its_title_and_metadata(tmp_path: Path) -> None:
    text = "The first sentence is here. The second sentence is here. The third sentence is here."
    corpus = read_rows(tmp_path, {**GOOD, "text": text}, {**GOOD, "id": "b"}, max_words=6)
    assert [passage.id for passage in corpus.passages] == ["a#0", "a#1", "a#2", "b"]
    assert {(passage.title, passage.metadata["kind"]) for passage in corpus.passages} == {("Mont Blanc", "mountain")}
    assert " ".join(passage.text for passage in corpus.passages[:3]) == text
    assert corpus.num_documents == 2


BAD_ROWS: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1, 2]", "a row is an object, not list"),
    ('"text"', "a row is an object, not str"),
    ({"text": "t"}, "`id` must be a text that is not empty"),
    ({"id": "x"}, "`text` must be a text that is not empty"),
    ({"id": "", "text": "t"}, "`id` must be"),
    ({"id": 5, "text": "t"}, "`id` must be"),
    ({"id": "x", "text": " \n"}, "`text` must be"),
    ({"id": "x", "text": ["t"]}, "`text` must be"),
    ({"id": "x", "text": "half \ud800"}, "`text` holds half a surrogate pair"),
    ({"id": "x\udfff", "text": "t"}, "`id` holds half a surrogate pair"),
    ({"id": "x", "text": "t", "title": 5}, "`title` must be a text"),
    ({"id": "x", "text": "t", "title": False}, "`title` must be a text"),
    ({"id": "x", "text": "t", "colour": "red"}, "unknown field 'colour'"),
    ({"id": "x", "text": "t", "metadata": []}, "`metadata` must be an object"),
    ({"id": "x", "text": "t", "metadata": {"tags": ["a"]}}, r"metadata\.tags must be"),
    ('{"id": "x", "text": "t", "metadata": {"n": NaN}}', r"metadata\.n must be"),
    ('{"id": "x", "text": "t", "metadata": {"n": 1' + "0" * 400 + "}}", r"metadata\.n must be"),
    ({"id": "x", "text": "t", "metadata": {"kind": 5}}, r"metadata\.kind is a number here but text in an earlier row"),
    ({"id": "a", "text": "t"}, "id 'a' was already used in line 1"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=[message for _, message in BAD_ROWS])
def test_bad_row_is_named_by_file_line_and_what(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(CorpusError, match=rf"corpus\.jsonl:3: .*{message}"):
        read_rows(tmp_path, GOOD, "", row)


@pytest.mark.parametrize(("row", "message"), BAD_ROWS, ids=[message for _, message in BAD_ROWS])
def test_bad_row_can_be_skipped_and_is_listed(tmp_path: Path, row: Any, message: str) -> None:
    corpus = read_rows(tmp_path, GOOD, row, {"id": "last", "text": "t"}, skip_bad=True)
    assert [passage.id for passage in corpus.passages] == ["a", "last"]
    assert len(corpus.skipped) == 1
    assert re.search(rf"corpus\.jsonl:2: .*{message}", corpus.skipped[0])


def test_row_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "b", "text": "caf\xe9"}\n')
    with pytest.raises(CorpusError, match=r":2: not JSON"):
        read_corpus(path, max_words=100, skip_bad=False)


@pytest.mark.parametrize("rows", [[], ["", " "]])
def test_corpus_without_a_row_is_an_error(tmp_path: Path, rows: list[str]) -> None:
    with pytest.raises(CorpusError, match="no usable row"):
        read_rows(tmp_path, *rows)


def test_corpus_of_bad_rows_only_is_an_error_even_when_they_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no usable row"):
        read_rows(tmp_path, "{", skip_bad=True)


def test_missing_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No such file"):
        read_corpus(tmp_path / "none.jsonl", max_words=100, skip_bad=False)


@pytest.mark.parametrize("is_cut_first", [True, False])
def test_passage_of_a_cut_document_and_a_document_of_that_name_collide(tmp_path: Path, is_cut_first: bool) -> None:
    rows = [{"id": "a", "text": "One two three. Four five six."}, {"id": "a#1", "text": "Short."}]
    with pytest.raises(CorpusError, match="id 'a#1' was already used in line 1"):
        read_rows(tmp_path, *(rows if is_cut_first else rows[::-1]), max_words=3)


# Building


def build(tmp_path: Path, *rows: Any, encoder: EncoderConfig = LETTERS, **options: Any) -> Manifest:
    return build_index(read_rows(tmp_path, *rows), tmp_path / "index", encoder, max_words=100, **options)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


ROWS = [{"id": "a", "text": "aaa"}, {"id": "b", "title": "bbb", "text": "b"}, {"id": "c", "text": "ccc"}]


@pytest.mark.usefixtures("letters")
async def test_built_index_opens_and_finds_what_was_put_in(tmp_path: Path) -> None:
    manifest = build(tmp_path, *ROWS)
    opened = open_index(tmp_path / "index", device="cpu", encoder_device=None)
    found = await opened.index.search(opened.encoder.encode(["b"])[0], 1, NO_FILTER)
    assert [passage.passage for passage in found] == [Passage("b", "b", "bbb")]
    assert found[0].retrieval_score == 4.0  # the title is encoded with the text
    assert opened.manifest == manifest == read_manifest(tmp_path / "index")
    assert (manifest.num_documents, manifest.num_passages, manifest.dim) == (3, 3, 26)
    assert opened.index.version == manifest.version


@pytest.mark.usefixtures("letters")
def test_batches_do_not_change_the_index(tmp_path: Path) -> None:
    assert build(tmp_path, *ROWS, batch_size=1).version == build(tmp_path, *ROWS, batch_size=2).version


@pytest.mark.usefixtures("letters")
def test_progress_sees_every_batch_and_may_not_lose_one(tmp_path: Path) -> None:
    seen: list[int] = []

    def progress(batches: Any) -> Iterator[Sequence[Passage]]:
        for batch in batches:
            seen.append(len(batch))
            yield batch

    build(tmp_path, *ROWS, progress=progress, batch_size=2)
    assert seen == [2, 1]


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize(
    ("rows", "encoder"),
    [
        (ROWS[:2], LETTERS),
        ([*ROWS[:2], {"id": "c", "text": "ccc", "title": "t"}], LETTERS),
        ([*ROWS[:2], {"id": "d", "text": "ccc"}], LETTERS),
        (ROWS[::-1], LETTERS),
        (ROWS, EncoderConfig(model="other", normalize=False)),
        (ROWS, LETTERS.model_copy(update={"metric": "l2"})),
        (ROWS, LETTERS.model_copy(update={"query_prompt": "query: "})),
        (ROWS, LETTERS.model_copy(update={"normalize": True})),
    ],
)
def test_version_changes_with_passages_vectors_and_encoder(
    tmp_path: Path, rows: list[Any], encoder: EncoderConfig
) -> None:
    version = build(tmp_path, *ROWS).version
    assert build(tmp_path, *ROWS).version == version
    assert build(tmp_path, *rows, encoder=encoder).version != version


@pytest.mark.usefixtures("letters")
def test_new_build_takes_the_place_of_the_old_index(tmp_path: Path) -> None:
    build(tmp_path, *ROWS)
    (tmp_path / "index" / "leftover").write_text("of the old one")
    manifest = build(tmp_path, *ROWS[:1])
    assert read_manifest(tmp_path / "index") == manifest
    assert sorted(contents(tmp_path / "index")) == ["manifest.json", "passages.arrow", "vectors.faiss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "index"]


@pytest.mark.usefixtures("letters")
def test_link_to_an_index_stays_one(tmp_path: Path) -> None:
    build(tmp_path, *ROWS)
    (tmp_path / "index").rename(tmp_path / "index-1")
    (tmp_path / "index").symlink_to("index-1")
    manifest = build(tmp_path, *ROWS[:1])
    assert (tmp_path / "index").is_symlink()
    assert read_manifest(tmp_path / "index-1") == manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "index", "index-1"]


@pytest.mark.usefixtures("letters")
def test_link_to_where_nothing_is_yet_leads_there(tmp_path: Path) -> None:
    (tmp_path / "index").symlink_to(Path("volume", "index-1"))
    manifest = build(tmp_path, *ROWS)
    assert (tmp_path / "index").is_symlink()
    assert read_manifest(tmp_path / "volume" / "index-1") == manifest


@pytest.mark.usefixtures("letters")
def test_build_that_dies_leaves_the_old_index_whole_and_nothing_else(tmp_path: Path) -> None:
    build(tmp_path, *ROWS)
    before = contents(tmp_path / "index")
    with pytest.raises(RetrievalError):
        build(tmp_path, *ROWS, {"id": "d", "text": LetterEncoder.fatal}, batch_size=1)
    assert contents(tmp_path / "index") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "index"]


@pytest.mark.usefixtures("letters")
def test_first_build_that_dies_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError):
        build(tmp_path, {"id": "d", "text": LetterEncoder.fatal})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl"]


@pytest.mark.usefixtures("letters")
def test_build_that_cannot_take_its_place_puts_the_old_index_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, *ROWS)
    before, rename = contents(tmp_path / "index"), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if ".building-" in path.name:
            raise OSError("no space left")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no space left"):
        build(tmp_path, *ROWS[:1])
    assert contents(tmp_path / "index") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "index"]


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda _: None], ids=["empty", "missing"])
def test_index_may_go_where_nothing_is(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "index")
    build(tmp_path, *ROWS)
    assert read_manifest(tmp_path / "index").num_passages == 3


@pytest.mark.usefixtures("letters")
def test_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ConfigError, match="is not an index"):
        build(tmp_path, *ROWS)
    assert contents(tmp_path / "index") == {"thesis.txt": b"ten years of work"}


@pytest.mark.usefixtures("letters")
def test_file_in_the_place_of_the_index_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("ten years of work")
    with pytest.raises(ConfigError, match="is not an index"):
        build(tmp_path, *ROWS)
    assert (tmp_path / "index").read_text() == "ten years of work"


# Opening


def change_manifest(tmp_path: Path, **changes: Any) -> None:
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this service reads 1: build it again"),
        ({"dim": "many"}, "can't be read"),
        ({"dim": 25}, "26"),
        ({"surprise": 1}, "can't be read"),
        ({"query_encoder_revision": "revision-0"}, "revision-0, but here it is at revision-1"),
    ],
)
def test_index_that_does_not_fit_is_a_config_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    build(tmp_path, *ROWS)
    change_manifest(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        open_index(tmp_path / "index", device="cpu", encoder_device=None)


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", ["manifest.json", "passages.arrow", "vectors.faiss"])
@pytest.mark.parametrize("content", [None, b"", b"[]"], ids=["missing", "empty", "other"])
def test_index_with_a_broken_file_is_a_config_error(
    tmp_path: Path, name: str, content: bytes | None, verify: bool
) -> None:
    build(tmp_path, *ROWS)
    (tmp_path / "index" / name).unlink()
    if content is not None:
        (tmp_path / "index" / name).write_bytes(content)
    with pytest.raises(ConfigError):
        open_index(tmp_path / "index", device="cpu", encoder_device=None, verify=verify)


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize("name", ["passages.arrow", "vectors.faiss", "tokens.npy", "token_offsets.npy"])
def test_one_wrong_byte_is_found_at_the_start(tmp_path: Path, name: str) -> None:
    build(tmp_path, *ROWS, tokenizer=prompt_tokenizer())
    path = tmp_path / "index" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name} is not what was written"):
        open_index(tmp_path / "index", device="cpu", encoder_device=None)


@pytest.mark.usefixtures("letters")
async def test_index_that_is_written_to_in_use_gives_nothing_until_it_is_whole(tmp_path: Path) -> None:
    build(tmp_path, *ROWS)
    opened, path = open_index(tmp_path / "index", device="cpu", encoder_device=None), tmp_path / "index/passages.arrow"
    vector, content = np.ones(26, dtype=np.float32), path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(IndexUnavailableError, match=r"passages\.arrow"):
        await opened.index.search(vector, 2, NO_FILTER)
    path.write_bytes(content)
    opened.files.verify()
    assert len(await opened.index.search(vector, 2, NO_FILTER)) == 2


@pytest.mark.usefixtures("letters")
async def test_new_build_does_not_touch_an_index_in_use(tmp_path: Path) -> None:
    build(tmp_path, *ROWS)
    opened, vector = open_index(tmp_path / "index", device="cpu", encoder_device=None), np.ones(26, dtype=np.float32)
    before = await opened.index.search(vector, 3, NO_FILTER)
    build(tmp_path, *ROWS[:1])
    assert await opened.index.search(vector, 3, NO_FILTER) == before


@pytest.mark.usefixtures("letters")
def test_index_from_before_there_were_digests_still_opens(tmp_path: Path) -> None:
    build(tmp_path, *ROWS)
    change_manifest(tmp_path, digests=None)
    assert len(open_index(tmp_path / "index", device="cpu", encoder_device=None).index) == len(ROWS)


def test_directory_without_an_index_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no index"):
        open_index(tmp_path / "none", device="cpu", encoder_device=None)


# Token ids


async def found(tmp_path: Path, fingerprint: str | None) -> Passage:
    opened = open_index(tmp_path / "index", device="cpu", encoder_device=None, fingerprint=fingerprint)
    (best,) = await opened.index.search(opened.encoder.encode(["b"])[0], 1, NO_FILTER)
    return best.passage


@pytest.mark.usefixtures("letters")
async def test_tokens_of_the_build_are_there_for_the_same_tokenizer(tmp_path: Path) -> None:
    tokenizer = prompt_tokenizer()
    manifest = build(tmp_path, *ROWS, tokenizer=tokenizer)
    with capture_logs() as logs:
        passage = await found(tmp_path, tokenizer.fingerprint)
    assert [passage.context_ids] == tokenizer.context_ids([Passage("b", "b", "bbb")])
    assert manifest == read_manifest(tmp_path / "index")
    assert manifest.tokens is not None
    assert manifest.tokens.fingerprint == tokenizer.fingerprint
    assert logs == []


@pytest.mark.usefixtures("letters")
async def test_tokens_of_another_tokenizer_are_ignored_with_a_warning(tmp_path: Path) -> None:
    build(tmp_path, *ROWS, tokenizer=prompt_tokenizer())
    with capture_logs() as logs:
        passage = await found(tmp_path, "another")
    assert (passage, passage.context_ids) == (Passage("b", "b", "bbb"), None)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("index_tokens_ignored", "warning")]


@pytest.mark.usefixtures("letters")
async def test_index_without_tokens_is_read_as_before(tmp_path: Path) -> None:
    build(tmp_path, *ROWS)
    path = tmp_path / "index" / "manifest.json"
    document = json.loads(path.read_text())
    del document["tokens"]  # as it was before there were any
    path.write_text(json.dumps(document))
    with capture_logs() as logs:
        assert (await found(tmp_path, prompt_tokenizer().fingerprint)).context_ids is None
    assert logs == []


@pytest.mark.usefixtures("letters")
def test_version_does_not_depend_on_tokens(tmp_path: Path) -> None:
    assert build(tmp_path, *ROWS).version == build(tmp_path, *ROWS, tokenizer=prompt_tokenizer()).version


@pytest.mark.usefixtures("letters")
def test_tokenizer_that_needs_whole_prompts_leaves_no_tokens(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert build(tmp_path, *ROWS, tokenizer=PromptTokenizer(words, rankrag_prompts())).tokens is None
    assert sorted(contents(tmp_path / "index")) == ["manifest.json", "passages.arrow", "vectors.faiss"]


@pytest.mark.usefixtures("letters")
@pytest.mark.parametrize("name", ["tokens.npy", "token_offsets.npy"])
@pytest.mark.parametrize("content", [None, b"", b"[]"], ids=["missing", "empty", "other"])
def test_broken_token_file_is_a_config_error(tmp_path: Path, name: str, content: bytes | None) -> None:
    tokenizer = prompt_tokenizer()
    build(tmp_path, *ROWS, tokenizer=tokenizer)
    (tmp_path / "index" / name).unlink()
    if content is not None:
        (tmp_path / "index" / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        open_index(tmp_path / "index", device="cpu", encoder_device=None, fingerprint=tokenizer.fingerprint)


@pytest.mark.usefixtures("letters")
def test_tokens_of_another_corpus_are_a_config_error(tmp_path: Path) -> None:
    tokenizer = prompt_tokenizer()
    build(tmp_path, *ROWS[:2], tokenizer=tokenizer)
    fewer = {path.name: path.read_bytes() for path in (tmp_path / "index").glob("token*.npy")}
    tokens = json.loads((tmp_path / "index" / "manifest.json").read_text())["tokens"]
    build(tmp_path, *ROWS, tokenizer=tokenizer)
    for name, content in fewer.items():
        (tmp_path / "index" / name).write_bytes(content)
    opening = partial(
        open_index, tmp_path / "index", device="cpu", encoder_device=None, fingerprint=tokenizer.fingerprint
    )
    with pytest.raises(ConfigError, match="is not what was written"):
        opening()
    with pytest.raises(ConfigError, match="token ids"):
        opening(verify=False)
    change_manifest(tmp_path, tokens=tokens)
    with pytest.raises(ConfigError, match="3 passages but there are token ids of 2"):
        opening(verify=False)
