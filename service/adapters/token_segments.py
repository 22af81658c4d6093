"""Ranking prompts made from the token ids of their segments, where that is what tokenising the whole gives.

A prompt is system + context + turn. Both seams are a newline before an ASCII letter. Ids of one side of such a
seam are those that it has in any prompt, if every step of the tokenizer decides on the left of the seam without
what follows the letter, and on its right without what precedes the seam (but for the start of a text, which a
guard stands in for). `is_apart` proves that from the tokenizer's parts, and says no where it can't:

- Added tokens: none holds a newline or takes in the white space beside it, so none lies across or ends at a seam.
- Normaliser: works character by character, or is one of Unicode's forms, which never compose with an ASCII letter.
- Pre-tokeniser: a regular expression without anchors, look-behind or far look-ahead, no branch of which accepts
  both the newline and the letter, has no match across a seam; if some branch takes any newline, a piece ends there.
  From there on the pieces of both sides are tokenised apart, whatever the model is.
- Model: where no piece ends at the seam, it must be a BPE with no token that holds the newline and the letter:
  no merge crosses the seam, and merges on its two sides don't touch each other.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from typing import Any, Final, TypeAlias

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers

from service.core.prompts import PromptSet

Ids: TypeAlias = tuple[int, ...]

_NEWLINE: Final = "\n"
_NEWLINE_IN_BYTE_LEVEL: Final = "Ċ"
_NEWLINE_AS_BYTE: Final = "<0x0A>"
_BYTE_LEVEL_REGEX: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ESCAPE = r"\\[pP]\{\^?\w+\}|\\[sSdDwWrntf]|\\[^\w]"
_REGEX_PART = re.compile(
    rf"(?P<lookahead>\(\?!\\S\))|(?P<open>\(\?i?:|\((?!\?))|(?P<close>\))|(?P<bar>\|)"
    rf"|(?P<quantifier>[?*+]|\{{\d+(?:,\d*)?\}})"
    rf"|(?P<atom>{_ESCAPE}|\[\^?(?:{_ESCAPE}|(?!&&)[^\[\]\\])+\]|[^\\\[\](){{}}|?*+^$.])",
    re.DOTALL,
)
_PROBES: Final = (
    "",
    "It is so.",
    "1 2",
    "'s",
    "e\u0301 \u0301",
    "漢字。",
    "שלום",
    "👩\u200d🚀\u200d",
    "\u200b",
    "A\u00ad",
)


@dataclass(frozen=True, slots=True)
class _Branch:
    """One alternative of a regular expression; `shape` is it with an `x` for each character matcher."""

    atoms: tuple[str, ...]
    shape: str

    @property
    def is_well_formed(self) -> bool:
        try:
            re.compile(self.shape)
        except re.error:
            return False
        return True

    @property
    def is_nullable(self) -> bool:
        return re.fullmatch(self.shape, "") is not None


def is_apart(tokenizer: Tokenizer, letters: str) -> bool:
    """Whether seams of a newline and one of `letters` part the tokenizer's work on any text, as proved above."""
    if any(map(_may_hold_seam, tokenizer.get_added_tokens_decoder().values())):
        return False
    if not _is_local_normalizer(_state(tokenizer.normalizer)):
        return False
    model, newline = tokenizer.model, _NEWLINE
    if isinstance(model, models.BPE) and model.dropout:
        return False
    letters += letters.lower()  # what a normaliser may make of them
    for step in _steps(_state(tokenizer.pre_tokenizer)):
        branches = _branches(step, newline)
        if branches is None or _has_match_across(branches, newline, letters):
            return False
        if _always_ends_at(branches, newline):
            return True
        if step["type"] == "ByteLevel":
            newline = _NEWLINE_IN_BYTE_LEVEL
    return isinstance(model, models.BPE) and not _has_merge_across(tokenizer, model, newline, letters)


def _may_hold_seam(token: AddedToken) -> bool:
    """A special token only hides what lies in it: it is text here, and takes nothing in."""
    return _NEWLINE in token.content or (not token.special and (token.lstrip or token.rstrip))


def _state(part: Any) -> Any:
    """A part of a tokenizer as tokenizer.json has it."""
    return None if part is None else json.loads(part.__getstate__())


def _is_local_normalizer(state: Any) -> bool:
    match state:
        case None | {"type": "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "Prepend"}:
            return True
        case {"type": "Replace", "pattern": {"String": str(text)}}:
            return len(text) == 1 and text != _NEWLINE and not text.isalpha()
        case {"type": "Sequence", "normalizers": list(parts)}:
            return all(map(_is_local_normalizer, parts))
        case _:
            return False


def _steps(state: Any) -> list[Any]:
    match state:
        case None:
            return []
        case {"type": "Sequence", "pretokenizers": list(parts)}:
            return [step for part in parts for step in _steps(part)]
        case _:
            return [state]


def _branches(step: Any, newline: str) -> list[_Branch] | None:
    """What a pre-tokeniser splits at; empty if never at a newline or a letter, None if that can't be told.

    A `Split` that merges its pieces can do so across a seam.
    """
    match step:
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated" | "Removed"}:
            return _parsed(regex)
        case {"type": "ByteLevel", "use_regex": True} if newline == _NEWLINE:
            return _parsed(_BYTE_LEVEL_REGEX)
        case {"type": "ByteLevel", "use_regex": False} if newline == _NEWLINE:
            return []
        case {"type": "Digits" | "Metaspace"}:
            return []
        case _:
            return None


def _parsed(regex: str) -> list[_Branch] | None:
    """The top-level branches of `regex`; None if it holds anything whose reach is not plain to see."""
    branches: list[_Branch] = []
    atoms: list[str] = []
    shape, depth, end = "", 0, 0
    while end < len(regex):
        part = _REGEX_PART.match(regex, end)
        if part is None:
            return None
        kind, text, end = part.lastgroup, part.group(), part.end()
        depth += (kind == "open") - (kind == "close")
        if kind == "bar" and depth == 0:
            branches.append(_Branch(tuple(atoms), shape))
            atoms, shape = [], ""
        elif kind == "atom":
            atoms.append(text)
            shape += "x"
        elif kind != "lookahead":
            shape += text
    branches.append(_Branch(tuple(atoms), shape))
    return branches if all(branch.is_well_formed for branch in branches) else None


def _has_match_across(branches: Sequence[_Branch], newline: str, letters: str) -> bool:
    def takes(branch: _Branch, characters: str) -> bool:
        return any(_accepts(f"(?i:{atom})", character) for atom, character in product(branch.atoms, characters))

    return any(takes(branch, newline) and takes(branch, letters) for branch in branches)


def _always_ends_at(branches: Sequence[_Branch], newline: str) -> bool:
    """Whether each newline is in some match; which ends there at a seam, since no match crosses one."""
    takes_any = any(branch.shape in {"x", "x+"} and _accepts(branch.atoms[0], newline) for branch in branches)
    return takes_any and not any(branch.is_nullable for branch in branches)


def _accepts(atom: str, character: str) -> bool:
    """Asks the engine that will match it."""
    return normalizers.Replace(Regex(atom), "").normalize_str(character) == ""


def _has_merge_across(tokenizer: Tokenizer, model: models.BPE, newline: str, letters: str) -> bool:
    """Also true where a letter is unknown to the model, and so might be fused with an unknown newline."""
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return True
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    across = [left + right for left, right in product((newline, _NEWLINE_AS_BYTE), letters)]
    return not all(letter in vocabulary for letter in letters) or any(
        pair in token for token in vocabulary for pair in across
    )


@dataclass(frozen=True, slots=True)
class _Guard:
    """Text that stands in for what surrounds a segment, and the ids that it must have there."""

    text: str
    ids: Ids


class SegmentEncoder:
    """The ids of contexts and turns as they are inside of a whole prompt. `open_segments` makes it.

    Each is encoded between guards, for the proof is of a seam, not of an end. Their ids must be those that they had
    in the fixed parts of the prompt: should the proof be wrong about a text after all, it gets no ids (None), and
    its prompt is tokenised whole.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: PromptSet) -> None:
        self._tokenizer = tokenizer
        before_context, before_turn = _newlines(prompts.system), _newlines(prompts.score_context)
        context_starts, turn_starts = _letters(prompts.score_context), _letters(prompts.score_turn)
        system, context_start = self._parted(prompts.system, context_starts)
        guard, guarded_start = self._parted(before_context, context_starts)
        turn_guard, turn_start = self._parted(before_turn, turn_starts)
        self.has_stable_guards = context_start == guarded_start
        self._before_context = _Guard(before_context, guard)
        self._after_context = _Guard(turn_starts, turn_start)
        self._before_turn = _Guard(before_turn, turn_guard)
        self._begin, self._end = self._special_ids(prompts.system)
        self._begin += system

    def whole(self, context: Sequence[int], turn: Ids) -> Ids:
        """The ids of the whole prompt, with the tokens that begin and end any."""
        return self._begin + tuple(context) + turn + self._end

    def turn(self, text: str) -> Ids | None:
        (encoding,) = self._tokenizer.encode_batch_fast([self._before_turn.text + text], add_special_tokens=False)
        return _between(encoding.ids, self._before_turn.ids, ())

    def contexts(self, texts: Sequence[str]) -> list[Ids | None]:
        before, after = self._before_context, self._after_context
        guarded = [f"{before.text}{text}{after.text}" for text in texts]
        encodings = self._tokenizer.encode_batch_fast(guarded, add_special_tokens=False)
        return [_between(encoding.ids, before.ids, after.ids) for encoding in encodings]

    def _parted(self, left: str, right: str) -> tuple[Ids, Ids]:
        """The ids of two fixed texts that meet at a seam."""
        encoding = self._tokenizer.encode(left + right, add_special_tokens=False)
        num_left = sum(start < len(left) for start, _ in encoding.offsets)
        return tuple(encoding.ids[:num_left]), tuple(encoding.ids[num_left:])

    def _special_ids(self, text: str) -> tuple[Ids, Ids]:
        """What the post-processor puts before and after any text."""
        encoding = self._tokenizer.encode(text)
        mask, ids = encoding.special_tokens_mask, encoding.ids
        num_before, num_after = (len(list(takewhile(bool, side))) for side in (mask, reversed(mask)))
        return tuple(ids[:num_before]), tuple(ids[len(ids) - num_after :])


def _between(ids: list[int], before: Ids, after: Ids) -> Ids | None:
    end = len(ids) - len(after)
    if tuple(ids[: len(before)]) != before or tuple(ids[end:]) != after:
        return None
    return tuple(ids[len(before) : end])


def open_segments(tokenizer: Tokenizer, prompts: PromptSet) -> SegmentEncoder | None:
    """None where prompts of these segments must be tokenised whole.

    The proof is tried on a few texts too: it rests on what each part of the library is known to do.
    """
    starts, ends = (prompts.score_context, prompts.score_turn), (prompts.system, prompts.score_context)
    if not all(map(_letters, starts)) or not all(map(_newlines, ends)):
        return None
    if not is_apart(tokenizer, "".join(text[0] for text in starts)):
        return None
    segments = SegmentEncoder(tokenizer, prompts)
    is_right = segments.has_stable_guards and all(
        _is_exact(segments, tokenizer, prompts, text, text[::-1]) for text in _PROBES
    )
    return segments if is_right else None


def _is_exact(segments: SegmentEncoder, tokenizer: Tokenizer, prompts: PromptSet, question: str, passage: str) -> bool:
    prompt = prompts.score_prompt(question, passage)
    turn, (context,) = segments.turn(prompt.turn), segments.contexts(prompt.context)
    if turn is None or context is None:
        return False
    return segments.whole(context, turn) == tuple(tokenizer.encode(prompt.text).ids)


def _letters(template: str) -> str:
    """The ASCII letters that a template begins with, which come before any placeholder."""
    found = re.match("[A-Za-z]*", template)
    return found.group() if found else ""


def _newlines(template: str) -> str:
    return template[len(template.rstrip(_NEWLINE)) :]
