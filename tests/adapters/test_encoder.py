"""The real MiniLM."""

from pathlib import Path

import numpy as np
import pytest

from service.adapters.encoder import (
    EncoderConfig,
    SentenceEncoder,
    content_revision,
    model_directory,
)
from service.adapters.index_directory import build_index, open_index, read_corpus
from service.core.cache_keys import CacheKeys
from service.errors import ConfigError
from service.types import NO_FILTER

KEYS = CacheKeys(checkpoint="c", prompts="p", index="i", encoder="e")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:no_such_package/model", "'no_such_package' is not installed"),
        ("no such model!", "is not a directory"),
    ],
)
def test_encoder_that_is_not_there_is_a_config_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_directory(name, None)


def test_directory_without_a_model_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        SentenceEncoder(EncoderConfig(model=str(tmp_path)), "query")


def test_revision_is_that_of_the_content(tmp_path: Path) -> None:
    for name, weights in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(weights)
    one, same, other = (content_revision(tmp_path / name) for name in "abc")
    assert one == same != other


# The real model, once


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return SentenceEncoder(EncoderConfig(), "query", "cpu")


def test_minilm_gives_normalised_vectors_that_do_not_depend_on_the_batch(minilm: SentenceEncoder) -> None:
    texts = ["How high is Mont Blanc?", "A river."]
    vectors = minilm.encode(texts)
    assert vectors.shape == (2, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[1] == pytest.approx(minilm.encode(texts[1:])[0], abs=1e-5)
    assert minilm.dim == 384


async def test_minilm_index_finds_the_passage_that_answers(tmp_path: Path, minilm: SentenceEncoder) -> None:
    texts = [
        "Mont Blanc rises to 4,806 metres.",
        "The Rhine is a river.",
        "Bread is baked.",
        "Cats sleep.",
        "Io is a moon.",
    ]
    rows = [f'{{"id": "{number}", "text": "{text}"}}' for number, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    corpus = read_corpus(tmp_path / "corpus.jsonl", max_words=100, skip_bad=False)
    manifest = build_index(corpus, tmp_path / "index", EncoderConfig(), max_words=100)
    opened = open_index(tmp_path / "index", device="auto", encoder_device="cpu")
    found = await opened.index.search(minilm.encode(["How high is the mountain?"])[0], 2, NO_FILTER)
    assert found[0].passage.id == "0"
    first, second = (passage.retrieval_score for passage in found)
    assert first is not None
    assert second is not None
    assert first > second
    assert manifest.query_encoder_revision == minilm.revision
