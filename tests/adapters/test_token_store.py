"""Token ids on disk: what was written comes back, and files that don't fit are refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.adapters.token_store import OFFSETS, TOKENS, TokensInfo, TokenStore, write_tokens
from service.adapters.tokenizer import PromptTokenizer
from service.errors import ConfigError
from service.types import Passage
from tests.fake_vllm import prompt_tokenizer, tiny_tokenizer
from tests.fakes import rankrag_prompts

PASSAGES = [Passage("a", "It is high."), Passage("b", "", "Mont Blanc"), Passage("c", "漢字 " * 300)]


def test_ids_come_back_as_the_tokenizer_makes_them(tmp_path: Path) -> None:
    tokenizer = prompt_tokenizer()
    info = write_tokens(tmp_path, PASSAGES, tokenizer)
    store = TokenStore(tmp_path, info)
    made = tokenizer.context_ids(PASSAGES)
    assert [store.ids(row) for row in range(len(store))] == made
    assert info == TokensInfo(fingerprint=tokenizer.fingerprint, num_tokens=sum(len(ids or ()) for ids in made))
    assert {type(id_) for id_ in store.ids(0) or ()} == {int}  # as JSON wants them


def test_more_passages_than_one_batch_keep_their_rows(tmp_path: Path) -> None:
    tokenizer, passages = prompt_tokenizer(), [Passage("", str(number)) for number in range(5000)]
    store = TokenStore(tmp_path, write_tokens(tmp_path, passages, tokenizer))
    rows = [0, 4095, 4096, 4999]
    assert [store.ids(row) for row in rows] == tokenizer.context_ids([passages[row] for row in rows])
    assert len(store) == 5000


class PartlyWhole(PromptTokenizer):
    """Finds that some passages can't be tokenised alone."""

    def context_ids(self, passages: Sequence[Passage]) -> list[tuple[int, ...] | None]:
        return [None if passage.id in "ac" else (1, 2) for passage in passages]


def test_passage_that_must_be_tokenised_whole_has_no_ids(tmp_path: Path) -> None:
    tokenizer = PartlyWhole(tiny_tokenizer(), rankrag_prompts())
    store = TokenStore(tmp_path, write_tokens(tmp_path, PASSAGES, tokenizer))
    assert [store.ids(row) for row in range(3)] == [None, (1, 2), None]


def test_store_is_opened_without_being_read(tmp_path: Path) -> None:
    num_passages, length = 50_000, 100
    np.save(tmp_path / TOKENS, np.arange(num_passages * length, dtype=np.int32))
    np.save(tmp_path / OFFSETS, np.arange(0, num_passages * length + 1, length, dtype=np.int64))
    store = TokenStore(tmp_path, TokensInfo(fingerprint="", num_tokens=num_passages * length))
    assert isinstance(store._tokens.base, np.memmap)
    assert store.ids(49_999) == tuple(range(4_999_900, 5_000_000))


@pytest.mark.parametrize(
    "damage",
    [
        lambda tokens, _: tokens.unlink(),
        lambda _, offsets: offsets.unlink(),
        lambda tokens, _: tokens.write_bytes(b""),
        lambda _, offsets: offsets.write_bytes(b"[]"),
        lambda tokens, _: tokens.write_bytes(tokens.read_bytes()[:-8]),
        lambda _, offsets: offsets.write_bytes(offsets.read_bytes()[:-8]),
        lambda tokens, _: np.save(tokens, np.arange(3, dtype=np.int32)),
        lambda tokens, _: np.save(tokens, np.load(tokens).astype(np.int64)),
        lambda tokens, _: np.save(tokens, np.load(tokens)[None]),
        lambda _, offsets: np.save(offsets, np.load(offsets)[:-1]),
        lambda _, offsets: np.save(offsets, np.empty(0, dtype=np.int64)),
        lambda tokens, _: tokens.write_bytes(b"PK\x03\x04" + bytes(100)),
    ],
)
def test_damaged_file_is_a_config_error(tmp_path: Path, damage: Callable[[Path, Path], None]) -> None:
    info = write_tokens(tmp_path, PASSAGES, prompt_tokenizer())
    damage(tmp_path / TOKENS, tmp_path / OFFSETS)
    with pytest.raises(ConfigError, match="token"):
        TokenStore(tmp_path, info)
