"""Examples of the paper's five families (arXiv 2407.02485, section 4.2 and table 1): a prompt and what follows it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from service.core.chunking import Chunker, count_words
from service.core.prompts import Prompt, PromptSet, collapse
from service.types import Passage
from training.answers import holds_answer
from training.records import Chat, Question
from training.relevance import MAX_WORDS, recall
from training.templates import Templates

Family = Literal[
    "context_rich_qa", "retrieval_augmented_qa", "context_ranking", "retrieval_augmented_ranking", "instruction"
]
NUM_PASSAGES = 5
MAX_DOCUMENT_WORDS = 2000
_MAX_TRIES = 50


@dataclass(frozen=True, slots=True)
class Example:
    """`prompt` makes the prompt of the passages, which may be cut to fit; `completion` follows it."""

    family: Family
    passages: tuple[str, ...]
    prompt: Callable[[Sequence[str]], Prompt]
    completion: str

    @property
    def text(self) -> str:
        return self.prompt(self.passages).text


@dataclass(frozen=True, slots=True)
class ExampleMaker:
    """Makes examples of questions. `fillers` are passages to complete five with, where a question has too few."""

    prompts: PromptSet
    templates: Templates
    positive_share: float = 0.5
    abstention_share: float = 0.1

    def context_ranking(self, question: Question, rng: random.Random) -> Example:
        """One passage, True or False: the service's ranking prompt, after the earlier turns of a conversation."""
        is_relevant = rng.random() < self.positive_share
        passage = rng.choice(question.relevant if is_relevant else question.irrelevant)
        history = self.templates.earlier(question.history)

        def prompt(passages: Sequence[str]) -> Prompt:
            made = self.prompts.score_prompt(question.text, passages[0])
            return Prompt(made.system, made.context, history + made.turn)

        label = self.prompts.label_true if is_relevant else self.prompts.label_false
        return Example("context_ranking", self._texts([passage]), prompt, label)

    def retrieval_augmented_qa(
        self, question: Question, rng: random.Random, fillers: Sequence[Passage] = ()
    ) -> Example:
        """A relevant passage among five, or none and an abstention: the service's answering prompt."""
        abstains = not question.is_answerable or rng.random() < self.abstention_share
        relevant = [] if abstains else [rng.choice(question.relevant)]
        shown = five(question, relevant, rng, fillers)
        return Example(
            "retrieval_augmented_qa", self._texts(shown),
            lambda passages: self.prompts.answer_prompt(question.text, passages),
            " " + (self.prompts.abstention if abstains else collapse(question.answers[0])),
        )  # fmt: skip

    def retrieval_augmented_ranking(
        self, question: Question, rng: random.Random, fillers: Sequence[Passage] = ()
    ) -> Example:
        """The numbers of the relevant passages among five."""
        relevant = list(question.relevant)[: NUM_PASSAGES - 1]
        shown = five(question, relevant, rng, fillers)
        turn = self.templates.ranking_turn.format(question=collapse(question.text))
        numbers = [str(number) for number, passage in enumerate(shown, start=1) if passage in relevant]

        def prompt(passages: Sequence[str]) -> Prompt:
            made = self.prompts.answer_prompt(question.text, passages)
            return Prompt(made.system, made.context, turn)

        completion = " " + self.templates.ranking_separator.join(numbers)
        return Example("retrieval_augmented_ranking", self._texts(shown), prompt, completion)

    def context_rich_qa(self, question: Question, instruction: str) -> Example:
        """The document itself, with an instruction on the form of the answer; abstains where it has none."""
        documents = question.relevant or question.irrelevant
        answer = question.answers[0] if question.answers else self.prompts.abstention
        texts = [Passage(p.id, around_answer(p.text, answer), p.title) for p in documents[:NUM_PASSAGES]]
        turn = self.templates.instructions[instruction].format(question=collapse(question.text))
        turn = self.templates.earlier(question.history) + turn

        def prompt(passages: Sequence[str]) -> Prompt:
            context = tuple(self.templates.document.format(passage=passage) for passage in passages)
            return Prompt(self.prompts.system, context, turn)

        return Example("context_rich_qa", self._texts(texts), prompt, " " + answer.strip())

    def instruction(self, chat: Chat) -> Example:
        """Stage I data: no passages; the last turn is learnt. Line breaks stay, they are part of the task."""
        *earlier, asked, reply = chat.turns
        turn = self.templates.earlier(earlier) + self.templates.chat_turn.format(text=asked.text)
        return Example("instruction", (), lambda _: Prompt(self.prompts.system, (), turn), " " + reply.text)

    def _texts(self, passages: Sequence[Passage]) -> tuple[str, ...]:
        return tuple(self.prompts.passage_text(passage.title, passage.text) for passage in passages)


def is_usable(family: Family, question: Question) -> bool:
    """Whether the question has what examples of `family` need."""
    match family:
        case "context_ranking":
            return bool(question.relevant and question.irrelevant)
        case "retrieval_augmented_ranking":
            return bool(question.relevant)
        case "retrieval_augmented_qa":
            return not question.is_answerable or bool(question.answers and question.relevant)
        case "context_rich_qa":
            has_answer = bool(question.answers and question.relevant)
            return has_answer or (not question.is_answerable and bool(question.irrelevant))
        case "instruction":
            return False


def five(
    question: Question, relevant: Sequence[Passage], rng: random.Random, fillers: Sequence[Passage]
) -> list[Passage]:
    """`relevant` with irrelevant passages, up to five, shuffled.

    The question's own come first, at random from the hardest (they are in order), and always the passage that an
    unanswerable one was asked about; then fillers that are not known to be relevant and do not hold the answer.
    """
    shown = [*relevant, *([] if question.is_answerable else question.irrelevant[:1])]
    hardest = [passage for passage in question.irrelevant[: 2 * NUM_PASSAGES] if passage not in shown]
    shown += rng.sample(hardest, min(len(hardest), NUM_PASSAGES - len(shown)))
    known = {passage.id for passage in (*question.relevant, *shown)}
    for _ in range(_MAX_TRIES if fillers else 0):
        if len(shown) >= NUM_PASSAGES:
            break
        filler = rng.choice(fillers)
        if filler.id not in known and not holds_answer(filler.text, question.answers):
            known.add(filler.id)
            shown.append(filler)
    rng.shuffle(shown)
    return shown


def around_answer(document: str, answer: str, max_words: int = MAX_DOCUMENT_WORDS) -> str:
    """The document, or where it is longer than `max_words` the chunks around the one most like the answer."""
    if count_words(document) <= max_words:
        return document
    chunks = Chunker(MAX_WORDS).chunks(document)
    best = max(range(len(chunks)), key=lambda index: recall(answer, chunks[index], size=1))
    by_distance = sorted(range(len(chunks)), key=lambda index: abs(index - best))
    kept = sorted(by_distance[: max(max_words // MAX_WORDS, 1)])
    gaps = [" … " if right - left > 1 else " " for left, right in pairwise(kept)]
    return "".join(part for index, gap in zip(kept, [*gaps, ""], strict=True) for part in (chunks[index], gap))
