"""Prompts as token ids, by the checkpoint's own tokenizer."""

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Final

from cachetools import LRUCache
from huggingface_hub import snapshot_download
from tokenizers import Tokenizer, models

from service.adapters.token_segments import Ids, SegmentEncoder, open_segments
from service.core.cache_keys import CacheKeys, digest
from service.core.prompts import Prompt, PromptSet, collapse, fair_shares
from service.errors import CheckpointError, RequestError
from service.types import Passage, Turn

_COMMIT_CHARS = 40
_IN_NO_TEXT: Final = "\n \n"  # prompts collapse white space
_ENTRY_TOKENS: Final = 64  # what an entry costs beside its ids, in units of one id (4 bytes)


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

    Ranking prompts are put together from the ids of their segments where the tokenizer allows it
    (`token_segments`). The contexts of texts seen lately are remembered: `max_cached_tokens` of 4 bytes, enough
    for about 20,000 passages of 100 words.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: PromptSet, *, max_cached_tokens: int = 4_000_000) -> None:
        _make_special_tokens_text(tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._segments = open_segments(tokenizer, prompts)
        self._known = KnownContexts(max_cached_tokens)

    @property
    def prompts(self) -> PromptSet:
        return self._prompts

    @property
    def is_segmentable(self) -> bool:
        """Whether ranking prompts can be made from segments; otherwise each is tokenised whole."""
        return self._segments is not None

    @cached_property
    def fingerprint(self) -> str:
        """Equal ones give equal `context_ids` of equal passages. Costs a tenth of a second for a large vocabulary."""
        prompts = self._prompts
        return digest(
            "context", self._tokenizer.to_str(), prompts.system, prompts.score_context, prompts.score_turn,
            prompts.passage_with_title, prompts.passage_without_title,
        )  # fmt: skip

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def count(self, text: str) -> int:
        """Tokens of a text inside a prompt."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def cut(self, text: str, max_tokens: int, *, keeps_end: bool = False) -> str:
        """Its first `max_tokens` tokens, or its last; characters of which a part would be left are dropped."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        num_tokens = len(encoding.ids)
        if num_tokens <= max_tokens:
            return text
        if keeps_end:
            return text[encoding.offsets[num_tokens - max_tokens - 1][1] :]
        return text[: encoding.offsets[max_tokens][0]]

    def num_prompt_tokens(self, question: str, title: str) -> int:
        """Tokens of a ranking prompt whose passage has this title and no text yet."""
        return len(self.encode(self._prompts.score_prompt(question, self._prompts.passage_text(title, "")).text))

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
        return self.fit([passage], lambda parts: self._prompts.score_prompt(question, parts[0]), max_tokens)

    def score_prompts(self, question: str, passages: Sequence[Passage], *, max_tokens: int) -> list[EncodedPrompt]:
        """The ranking prompt of `question` with each passage: the ids that `score_prompt` gives, in less time.

        Raises:
            RequestError: the question alone is too long.
        """
        prompts = self._assembled(question, passages)
        return [
            EncodedPrompt(ids)
            if ids is not None and len(ids) <= max_tokens
            else self.score_prompt(question, passage.title, passage.text, max_tokens=max_tokens)
            for ids, passage in zip(prompts, passages, strict=True)
        ]

    def context_ids(self, passages: Sequence[Passage]) -> list[Ids | None]:
        """The ids of each passage's segment, to be kept; None where its prompt must be tokenised whole."""
        return [None] * len(passages) if self._segments is None else self._contexts(self._segments, passages)

    def _assembled(self, question: str, passages: Sequence[Passage]) -> list[Ids | None]:
        segments = self._segments
        turn = None if segments is None else segments.turn(self._prompts.score_prompt(question, "").turn)
        if segments is None or turn is None:
            return self._whole(question, passages)
        contexts = self._known_contexts(segments, passages)
        return [None if context is None else segments.whole(context, turn) for context in contexts]

    def _whole(self, question: str, passages: Sequence[Passage]) -> list[Ids | None]:
        texts = [self._prompts.score_prompt(question, self._passage_text(passage)).text for passage in passages]
        return [tuple(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]

    def _known_contexts(self, segments: SegmentEncoder, passages: Sequence[Passage]) -> list[Sequence[int] | None]:
        """From the passage itself, from memory, or tokenised now: all of them in one call."""
        found = [self._known.get(p) if p.context_ids is None else p.context_ids for p in passages]
        missing = [index for index, context in enumerate(found) if context is None]
        made = self._contexts(segments, [passages[index] for index in missing]) if missing else []
        for index, context in zip(missing, made, strict=True):
            found[index] = context
            if context is not None:
                self._known.put(passages[index], context)
        return found

    def _contexts(self, segments: SegmentEncoder, passages: Sequence[Passage]) -> list[Ids | None]:
        prompts = [self._prompts.score_prompt("", self._passage_text(passage)) for passage in passages]
        return segments.contexts(["".join(prompt.context) for prompt in prompts])

    def _passage_text(self, passage: Passage) -> str:
        return self._prompts.passage_text(passage.title, passage.text)

    def answer_prompt(self, question: str, passages: Sequence[tuple[str, str]], *, max_tokens: int) -> EncodedPrompt:
        """The generation prompt over (title, text) passages, best first, at most `max_tokens` long."""
        parts = [self._prompts.passage_text(title, text) for title, text in passages]
        return self.fit(parts, lambda cut: self._prompts.answer_prompt(question, cut), max_tokens)

    def rewrite_prompt(self, question: str, history: Sequence[Turn], *, max_tokens: int) -> EncodedPrompt:
        """The prompt that rewrites the question, at most `max_tokens` long."""
        roles = [turn.role for turn in history]
        texts = [collapse(turn.text) for turn in history]
        return self.fit(texts, lambda cut: self._prompts.rewrite_prompt(question, roles, cut), max_tokens)

    def fit(self, passages: Sequence[str], prompt: Callable[[Sequence[str]], Prompt], max_tokens: int) -> EncodedPrompt:
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


def _make_special_tokens_text(tokenizer: Tokenizer) -> None:
    """Encode special tokens that are written in a text as characters.

    A Unigram model would find them by itself, since they are among its pieces: there they get names that no text
    holds, under the same ids.
    """
    tokenizer.encode_special_tokens = True
    if not isinstance(tokenizer.model, models.Unigram):
        return
    special = {id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    state = json.loads(tokenizer.model.__getstate__())
    pieces = [
        (_IN_NO_TEXT + piece.removeprefix(_IN_NO_TEXT) if id_ in special else piece, score)
        for id_, (piece, score) in enumerate(state["vocab"])
    ]
    tokenizer.model = models.Unigram(pieces, state["unk_id"], state["byte_fallback"])


class KnownContexts:
    """The ids of texts seen lately, by a digest of the text. Used from several threads."""

    def __init__(self, max_tokens: int) -> None:
        self._lock = Lock()
        self._ids: LRUCache[str, array[int]] = LRUCache(max_tokens, lambda ids: len(ids) + _ENTRY_TOKENS)

    def get(self, passage: Passage) -> Sequence[int] | None:
        key = CacheKeys.passage(passage)
        with self._lock:
            return self._ids.get(key)

    def put(self, passage: Passage, ids: Ids) -> None:
        """A text too long for all of the memory is not remembered."""
        key, packed = CacheKeys.passage(passage), array("i", ids)
        with self._lock:
            if len(ids) + _ENTRY_TOKENS <= self._ids.maxsize:
                self._ids[key] = packed


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
