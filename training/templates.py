"""The templates that only training uses, from `templates.yaml`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.core.prompts import collapse
from training.config import read_yaml
from training.records import Turn

FILE = Path(__file__).with_name("templates.yaml")


@dataclass(frozen=True, slots=True)
class Templates:
    document: str
    instructions: Mapping[str, str]
    ranking_turn: str
    ranking_separator: str
    history: Mapping[str, str]
    chat_turn: str

    def earlier(self, turns: Sequence[Turn]) -> str:
        """The turns before the last one, as the prompt shows them."""
        return "".join(self.history[turn.role].format(text=collapse(turn.text)) for turn in turns)


def read_templates(path: Path = FILE) -> Templates:
    document = read_yaml(path)
    rich, ranking = document["context_rich_qa"], document["retrieval_augmented_ranking"]
    return Templates(
        document=rich["context"], instructions=rich["turns"],
        ranking_turn=ranking["turn"], ranking_separator=ranking["separator"],
        history=document["history"], chat_turn=document["instruction"]["turn"],
    )  # fmt: skip
