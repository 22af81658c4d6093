"""RankRAG's prompts: templates that are data, and the text made from them.

A prompt is three segments, `system`, `context` (the passages) and `turn` (the question), in this order.
Prompts that share their first segments share a prefix in the engine's KV cache: what a passage has in
common with itself across questions is everything up to the turn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from service.errors import ConfigError, EngineError


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt by its segments; `passages` are the parts of `context` that may be cut to fit."""

    system: str
    context: tuple[str, ...]
    turn: str

    @property
    def text(self) -> str:
        return self.system + "".join(self.context) + self.turn


@dataclass(frozen=True, slots=True)
class RewritePrompt:
    """Templates of the turns of a conversation, and of the request to rewrite its last question."""

    turns: Mapping[str, str]
    turn: str


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of one checkpoint family. Two sets with different text differ in `version`."""

    name: str
    version: int
    system: str
    passage_with_title: str
    passage_without_title: str
    score_context: str
    score_turn: str
    label_true: str
    label_false: str
    answer_context: str
    answer_turn: str
    abstention: str
    stop: tuple[str, ...]
    rewrite: RewritePrompt | None = None

    @property
    def id(self) -> str:
        return f"{self.name}-v{self.version}"

    def passage_text(self, title: str, text: str) -> str:
        """The passage as the prompt shows it: title first, white space collapsed."""
        template = self.passage_with_title if title.strip() else self.passage_without_title
        return template.format(title=collapse(title).rstrip("."), text=collapse(text))

    def score_prompt(self, question: str, passage: str) -> Prompt:
        """Ask whether `passage` (made by `passage_text`) answers `question`."""
        return Prompt(
            system=self.system,
            context=(self.score_context.format(passage=passage),),
            turn=self.score_turn.format(question=collapse(question)),
        )

    def answer_prompt(self, question: str, passages: Iterable[str]) -> Prompt:
        """Ask for a short answer from `passages`, best first."""
        context = tuple(
            self.answer_context.format(number=number, passage=passage)
            for number, passage in enumerate(passages, start=1)
        )
        turn = self.answer_turn.format(question=collapse(question))
        return Prompt(system=self.system, context=context, turn=turn)

    def rewrite_prompt(self, question: str, roles: Iterable[str], texts: Iterable[str]) -> Prompt:
        """Ask for the question as it would be asked without the conversation before it.

        Raises:
            EngineError: this set has no such prompt.
        """
        if self.rewrite is None:
            raise EngineError(f"the prompt set {self.id} has no prompt for rewriting")
        turns = self.rewrite.turns
        context = tuple(turns[role].format(text=collapse(text)) for role, text in zip(roles, texts, strict=True))
        return Prompt(system=self.system, context=context, turn=self.rewrite.turn.format(question=collapse(question)))

    def is_abstention(self, answer: str) -> bool:
        """Whether the model said that the passages do not hold the answer, or said nothing."""
        given = collapse(answer).casefold()
        return not given or given.startswith(self.abstention.casefold().rstrip("."))


def collapse(text: str) -> str:
    """Every run of white space becomes one space, so that no text can start a line of its own."""
    return " ".join(text.split())


_PLACEHOLDERS: Mapping[tuple[str, str], frozenset[str]] = {
    ("passage", "with_title"): frozenset({"title", "text"}),
    ("passage", "without_title"): frozenset({"text"}),
    ("score", "context"): frozenset({"passage"}),
    ("score", "turn"): frozenset({"question"}),
    ("answer", "context"): frozenset({"number", "passage"}),
    ("answer", "turn"): frozenset({"question"}),
}
_OPTIONAL_PLACEHOLDERS = frozenset({"number"})


def parse_prompt_set(document: Any) -> PromptSet:
    """Check a parsed prompt file and make a PromptSet of it.

    Raises:
        ConfigError: a part is missing or a template lacks, or has too many, placeholders.
    """
    try:
        for (part, key), names in _PLACEHOLDERS.items():
            _check_placeholders(f"{part}.{key}", _text(f"{part}.{key}", document[part][key]), names)
        score, answer = document["score"], document["answer"]
        return PromptSet(
            name=str(document["name"]),
            version=int(document["version"]),
            system=_text("system", document["system"]),
            passage_with_title=document["passage"]["with_title"],
            passage_without_title=document["passage"]["without_title"],
            score_context=score["context"],
            score_turn=score["turn"],
            label_true=_text("score.label_true", score["label_true"]),
            label_false=_text("score.label_false", score["label_false"]),
            answer_context=answer["context"],
            answer_turn=answer["turn"],
            abstention=_text("answer.abstention", answer["abstention"]),
            stop=_texts("answer.stop", answer["stop"]),
            rewrite=_rewrite(document["rewrite"]) if "rewrite" in document else None,
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"prompt file: {exc!r} is missing or of the wrong type") from exc


def _rewrite(part: Any) -> RewritePrompt:
    for key in ("user", "assistant"):
        _check_placeholders(f"rewrite.{key}", _text(f"rewrite.{key}", part[key]), frozenset({"text"}))
    _check_placeholders("rewrite.turn", _text("rewrite.turn", part["turn"]), frozenset({"question"}))
    return RewritePrompt({"user": part["user"], "assistant": part["assistant"]}, part["turn"])


def _text(where: str, value: object) -> str:
    """YAML reads `True` without quotes as a boolean: such a label must not become a text by chance."""
    if not isinstance(value, str):
        raise ConfigError(f"prompt file: {where} must be a text in quotes, not {value!r}")
    return value


def _texts(where: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ConfigError(f"prompt file: {where} must be a list of texts, not {values!r}")
    return tuple(_text(where, value) for value in values)


def _check_placeholders(where: str, template: str, names: frozenset[str]) -> None:
    found = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    if unknown := found - names:
        raise ConfigError(f"prompt file: {where} has unknown placeholders {sorted(unknown)}")
    if missing := names - found - _OPTIONAL_PLACEHOLDERS:
        raise ConfigError(f"prompt file: {where} lacks placeholders {sorted(missing)}")


def fair_shares(lengths: Sequence[int], budget: int) -> list[int]:
    """Split `budget` over items that want `lengths`: short ones get all they want, long ones the same rest.

    The sum of the shares is at most `budget`. O(n log n).
    """
    shares = [0] * len(lengths)
    left = max(budget, 0)
    by_length = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for position, index in enumerate(by_length):
        shares[index] = min(lengths[index], left // (len(by_length) - position))
        left -= shares[index]
    return shares
