"""Prompts as token ids, by the checkpoint's own tokenizer."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer

from service.core.cache_keys import digest
from service.core.prompts import Prompt, PromptSet, fair_shares
from service.errors import CheckpointError, RequestError

_COMMIT_CHARS = 40


@dataclass(frozen=True, slots=True)
class Labels:
    """The two label tokens."""

    true: int
    false: int


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Token ids, BOS included where the checkpoint wants one; `is_cut` if passages lost their ends."""

    ids: tuple[int, ...]
    is_cut: bool = False


class PromptTokenizer:
    """Makes token ids of prompts and cuts passages, never questions, to fit the context.

    Text is untrusted: special tokens written in it (`<|eot_id|>`) are encoded as the characters they are.
    Encoding releases the GIL and is safe from several threads.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: PromptSet) -> None:
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._prompts = prompts

    @property
    def prompts(self) -> PromptSet:
        return self._prompts

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def labels(self) -> Labels:
        """The ids of both labels as they follow the score prompt.

        Raises:
            CheckpointError: a label is not one token there, or both are the same token.
        """
        prompt = self._prompts.score_prompt("Is it so?", "It is so.").text
        labels = Labels(*(self._label(prompt, text) for text in (self._prompts.label_true, self._prompts.label_false)))
        if labels.true == labels.false:
            raise CheckpointError("the labels True and False are the same token of this checkpoint's tokenizer")
        return labels

    def _label(self, prompt: str, label: str) -> int:
        without, with_label = self.encode(prompt), self.encode(prompt + label)
        if with_label[:-1] != without:
            raise CheckpointError(
                f"the label {label!r} is not a single token after the prompt {self._prompts.id}: "
                f"it adds {len(with_label) - len(without)} tokens; rank with a checkpoint whose tokenizer has it"
            )
        return with_label[-1]

    def score_prompt(self, question: str, title: str, text: str, *, max_tokens: int) -> EncodedPrompt:
        """The ranking prompt of one pair, at most `max_tokens` long."""
        passage = self._prompts.passage_text(title, text)
        return self._fit([passage], lambda parts: self._prompts.score_prompt(question, parts[0]), max_tokens)

    def answer_prompt(self, question: str, passages: Sequence[tuple[str, str]], *, max_tokens: int) -> EncodedPrompt:
        """The generation prompt over (title, text) passages, best first, at most `max_tokens` long."""
        parts = [self._prompts.passage_text(title, text) for title, text in passages]
        return self._fit(parts, lambda cut: self._prompts.answer_prompt(question, cut), max_tokens)

    def _fit(
        self, passages: Sequence[str], prompt: Callable[[Sequence[str]], Prompt], max_tokens: int
    ) -> EncodedPrompt:
        """Encode; while too long, give every passage a fair share of what the rest leaves and try again.

        Raises:
            RequestError: the prompt is too long even without any passage.
        """
        ids = self.encode(prompt(passages).text)
        if len(ids) <= max_tokens:
            return EncodedPrompt(tuple(ids))
        budget = max_tokens - len(self.encode(prompt([""] * len(passages)).text))
        while budget > 0:
            cut = self._cut(passages, budget)
            ids = self.encode(prompt(cut).text)
            if len(ids) <= max_tokens:
                return EncodedPrompt(tuple(ids), is_cut=True)
            budget -= max(len(ids) - max_tokens, 1)
        raise RequestError("the question alone fills the checkpoint's context", field="question", limit=max_tokens)

    def _cut(self, passages: Sequence[str], budget: int) -> list[str]:
        encodings = [self._tokenizer.encode(passage, add_special_tokens=False) for passage in passages]
        shares = fair_shares([len(encoding.ids) for encoding in encodings], budget)
        return [
            passage if share == len(encoding.ids) else passage[: encoding.offsets[share][0]]
            for passage, encoding, share in zip(passages, encodings, shares, strict=True)
        ]


def checkpoint_directory(checkpoint: str, revision: str | None) -> Path:
    """Where the checkpoint's small files are: a directory as given, or a Hugging Face id's snapshot.

    Weights are not fetched: vLLM has its own copy.

    Raises:
        CheckpointError: there is no such directory, and the hub has no such id or can't be reached.
    """
    path = Path(checkpoint)
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=["*.json", "*.model"]))
    except Exception as exc:
        raise CheckpointError(
            f"checkpoint {checkpoint!r} is not a directory and could not be had from the hub: {exc}"
        ) from exc


def checkpoint_revision(directory: Path) -> str:
    """Names the checkpoint in cache keys: a digest of its small files and of samples of its weights.

    Sixteen samples a file: a retrained checkpoint differs in them, and a large one need not be read whole.
    A hub snapshot without weights is told apart by its directory's name, which is the commit.
    """
    parts = [[directory.name if len(directory.name) == _COMMIT_CHARS else ""]]
    for path in sorted(directory.glob("*")):
        if path.suffix in {".json", ".model"}:
            parts.append([path.name, hashlib.sha256(path.read_bytes()).hexdigest()])
        elif path.suffix in {".safetensors", ".bin"}:
            parts.append([path.name, _sampled_digest(path)])
    return digest(*parts)


def _sampled_digest(path: Path, *, num_samples: int = 16, sample_bytes: int = 65_536) -> str:
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(num_samples):
            file.seek(number * size // num_samples)
            found.update(file.read(sample_bytes))
    return found.hexdigest()


def open_tokenizer(directory: Path) -> Tokenizer:
    """Read `tokenizer.json`.

    Raises:
        CheckpointError: it is missing or unreadable.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint needs a fast tokenizer")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as exc:
        raise CheckpointError(f"{path} can't be read: {exc}") from exc
