"""What the composition root decides by itself."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.adapters.encoder import EncoderConfig
from service.adapters.index_directory import FORMAT, Manifest
from service.adapters.prompt_files import read_prompts
from service.app import _cache_keys, _encoder_key, _read_probe
from service.core.cache_keys import CacheKeys
from service.errors import ConfigError
from service.settings import GateSettings, Settings


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


ROW = '{"id": "q", "query": "Who?", "candidates": [{"id": "a", "text": "t", "label": 1}]}\n'
KEYS = CacheKeys(checkpoint="c", prompts="p", index="i", encoder="e")


def gated(probe: Path | None, *, override: bool = False, top_n: int = 20) -> Settings:
    return Settings(gate=GateSettings(probe=probe, override=override), top_n=top_n)


def test_without_a_probe_there_is_no_gate() -> None:
    assert _read_probe(gated(None), KEYS, has_index=True) is None


def test_verdict_is_named_by_the_probes_content_and_how_much_is_ranked(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.jsonl", "same.jsonl", "other.jsonl"))
    one.write_text(ROW)
    same.write_text(ROW)
    other.write_text(ROW.replace("Who?", "Why?"))
    probes = [
        _read_probe(settings, KEYS, has_index=False)
        for settings in (gated(one), gated(same), gated(other), gated(one, top_n=30))
    ]
    keys = [probe.key for probe in probes if probe]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_answers_are_not_shared_over_a_gate_or_its_override(tmp_path: Path) -> None:
    (tmp_path / "probe.jsonl").write_text(ROW)
    settings = [gated(None), gated(tmp_path / "probe.jsonl"), gated(tmp_path / "probe.jsonl", override=True)]
    prompts = read_prompts("rankrag-v1")
    assert len({_cache_keys(one, prompts, "revision", None).gate for one in settings}) == 3


def test_probe_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl can't be read"):
        _read_probe(gated(tmp_path / "none.jsonl"), KEYS, has_index=True)
