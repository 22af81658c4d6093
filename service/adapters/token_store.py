"""Token ids of passages on disk, beside an index: made once, memory-mapped, read a passage at a time.

`tokens.npy` holds the ids of all passages one after the other, int32; `token_offsets.npy` where each begins,
(num_passages + 1,) int64. An empty range is a passage without ids: no context is ever empty.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.adapters.tokenizer import PromptTokenizer
from service.errors import ConfigError
from service.types import Passage

TOKENS, OFFSETS = "tokens.npy", "token_offsets.npy"
_PASSAGES_PER_BATCH = 4096


class TokensInfo(BaseModel):
    """The manifest's entry. `fingerprint` names the tokenizer and prompts that the ids are valid for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str
    num_tokens: int


def write_tokens(directory: Path, passages: Sequence[Passage], tokenizer: PromptTokenizer) -> TokensInfo:
    """Tokenise all passages, in order; 4 bytes of memory for each token while it lasts."""
    parts, lengths = [np.empty(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)]
    for batch in _batches(passages):
        contexts = [context or () for context in tokenizer.context_ids(batch)]
        parts += [np.array(context, dtype=np.int32) for context in contexts]
        lengths.append(np.array([len(context) for context in contexts], dtype=np.int64))
    tokens = np.concatenate(parts)
    np.save(directory / TOKENS, tokens)
    np.save(directory / OFFSETS, np.cumsum(np.concatenate(lengths)))
    return TokensInfo(fingerprint=tokenizer.fingerprint, num_tokens=len(tokens))


def _batches(passages: Sequence[Passage]) -> Iterator[Sequence[Passage]]:
    for start in range(0, len(passages), _PASSAGES_PER_BATCH):
        yield passages[start : start + _PASSAGES_PER_BATCH]


class TokenStore:
    """Reads what `write_tokens` wrote. Opening reads no ids; a row costs microseconds."""

    def __init__(self, directory: Path, info: TokensInfo) -> None:
        """Raises ConfigError where a file is missing or the two don't fit together."""
        self._tokens = _mapped(directory / TOKENS, np.dtype(np.int32))
        self._offsets = _mapped(directory / OFFSETS, np.dtype(np.int64))
        ends = self._offsets[[0, -1]].tolist() if len(self._offsets) else []
        if ends != [0, len(self._tokens)] or len(self._tokens) != info.num_tokens:
            raise ConfigError(
                f"{directory / TOKENS} has {len(self._tokens)} token ids where {info.num_tokens} were written: "
                "build the index again"
            )

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._offsets) - 1

    def ids(self, row: int) -> tuple[int, ...] | None:
        """The ids of one passage's context, if it has any."""
        start, end = self._offsets[row : row + 2].tolist()
        return tuple(self._tokens[start:end].tolist()) or None


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A flat array, without the slower class that NumPy gives to mapped ones."""
    try:
        array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path} is not a file of token ids: {exc}") from exc
    if array.dtype != dtype or array.ndim != 1:
        raise ConfigError(f"{path} is not a file of token ids: it holds {array.ndim}-d {array.dtype}")
    return array
