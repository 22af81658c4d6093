"""What the composition root decides by itself."""

from datetime import UTC, datetime

import pytest

from service.adapters.encoder import EncoderConfig
from service.adapters.index_directory import FORMAT, Manifest
from service.app import _encoder_key


def key_of(config: EncoderConfig, revision: str = "revision-1") -> str:
    return _encoder_key(
        Manifest(
            format=FORMAT, version="v1", created_at=datetime(2026, 1, 1, tzinfo=UTC), encoder=config,
            query_encoder_revision=revision, passage_encoder_revision="p", dim=3, max_words=100, num_documents=1,
            num_passages=1,
        )
    )  # fmt: skip


def test_embeddings_are_shared_by_indexes_of_the_same_encoder() -> None:
    assert key_of(EncoderConfig()) == key_of(EncoderConfig())


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(query_prompt="query: "),
        EncoderConfig(pooling="cls"),
        EncoderConfig(normalize=False),
        EncoderConfig(model="other"),
    ],
)
def test_embeddings_are_not_shared_by_encoders_that_make_other_vectors(config: EncoderConfig) -> None:
    assert key_of(config) != key_of(EncoderConfig())


def test_embeddings_are_not_shared_by_other_weights() -> None:
    assert key_of(EncoderConfig(), "revision-2") != key_of(EncoderConfig())
