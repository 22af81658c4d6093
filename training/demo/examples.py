"""What the demo model trains on: trees of questions over invented passages and over public text."""

import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from service.core.prompts import PromptSet
from training.demo.negatives import Negatives, mine
from training.demo.packing import ANSWER, NOWHERE, PUBLIC_ANSWER, PUBLIC_SCORE, SCORE, Branch, Tree
from training.demo.tokenizer import EOS, token_id
from training.demo.world import Document, Question, World

NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,14}(?![\w'’])")


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the curriculum.

    `families` limits the kinds of thing that passages are about (all if None); `near` is the share of passages
    whose negatives are near-misses, `split` the chance that an entity has several passages, `unanswerable` the
    share of contexts with such questions; `length` counts the tokens of a sequence; `short` leaves out the system
    text, the instructions on answers and all but the facts; `weights` are the shares of the four kinds of tree.
    """

    passages: tuple[int, int]
    max_facts: int
    explicit: float
    families: int | None
    near: float
    split: float
    unanswerable: float
    length: int
    short: bool
    asks: int
    weights: dict[str, float]


@dataclass(frozen=True, slots=True)
class PublicText:
    """SQuAD-like JSONL: passages `{id,title,text}` and questions `{question,answers,passage_id}`."""

    passages: dict[str, dict[str, Any]]
    questions: dict[str, list[dict[str, Any]]]
    by_id: dict[str, dict[str, Any]]
    negatives: Negatives

    @classmethod
    def load(cls, passages: Path, questions: Path, cache: Path) -> "PublicText":
        """Mines negatives on first use, which takes minutes; `cache` keeps them."""
        rows = {row["id"]: row for row in read_jsonl(passages)}
        asked = list(read_jsonl(questions))
        by_passage: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in asked:
            by_passage[row["passage_id"]].append(row)
        return cls(rows, dict(by_passage), {row["id"]: row for row in asked}, mine(rows, asked, cache))

    def names(self) -> list[str]:
        """Capitalised words from inside sentences."""
        return sorted({name for row in self.passages.values() for name in NAME.findall(row["text"])})


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its answer (empty: none), the place of the passage that holds it, and the title asked about."""

    text: str
    answer: str = ""
    place: int = 0
    title: str = ""


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


@dataclass(frozen=True)
class TreeMaker:
    """Makes random trees of each kind, as token ids, with the service's own prompts."""

    world: World
    public: PublicText | None
    prompts: PromptSet
    tokenizer: Tokenizer
    max_words: int = 150

    def make(self, kind: str, stage: Stage, rng: random.Random) -> list[Tree]:
        makers: dict[str, Callable[[Stage, random.Random], list[Tree]]] = {
            "world_answer": self._world_answer,
            "world_score": self._world_score,
            "public_answer": self._public_answer,
            "public_score": self._public_score,
        }
        return makers[kind](stage, rng)

    def at(self, stage: Stage) -> "TreeMaker":
        """The same maker with the prompts that the stage wants."""
        return replace(self, prompts=shortened(self.prompts)) if stage.short else self

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def root(self) -> list[int]:
        return list(self.tokenizer.encode(self.prompts.system).ids)

    def _world_answer(self, stage: Stage, rng: random.Random) -> list[Tree]:
        count = rng.randint(*stage.passages)
        group = self._group(stage, rng, count + 1)
        shown, absent = group[:count], group[count]
        asked = [Asked(q.text, q.answer, place, q.title) for place, document in enumerate(shown)
                 for q in document.questions]  # fmt: skip
        unanswerable = [*_unanswered(shown, shown), *absent.questions]
        asked = rng.sample(asked, min(len(asked), 16))
        num_unanswerable = 1 + len(asked) // 5 if rng.random() < stage.unanswerable else 0
        num_unanswerable = min(len(unanswerable), num_unanswerable)
        asked += [Asked(q.text, title=q.title) for q in rng.sample(unanswerable, num_unanswerable)]
        return [self._answer_tree([(document.title, document.text) for document in shown], asked, ANSWER)]

    def _world_score(self, stage: Stage, rng: random.Random) -> list[Tree]:
        group = self._group(stage, rng, 4)
        near = rng.random() < stage.near
        return [self._world_score_tree(document, group, rng, near) for document in group[: rng.randint(1, 3)]]

    def _world_score_tree(self, document: Document, group: Sequence[Document], rng: random.Random, near: bool) -> Tree:
        """Near-misses: what this passage leaves out, and the fields it has, asked of others. Else: any others."""
        rest = [other for other in group if other is not document]
        others = [q for other in rest for q in other.questions] + _unanswered(rest, [document])
        if near:
            fields = {question.field for question in document.questions}
            others = [*document.missing, *(q for q in others if q.field in fields)] or others
        positives = [Asked(q.text, q.answer, title=q.title) for q in document.questions]
        negatives = [Asked(q.text, title=q.title) for q in others]
        return self._score_tree((document.title, document.text), positives, negatives, SCORE, rng)

    def _public_score(self, stage: Stage, rng: random.Random) -> list[Tree]:
        """A passage with its own questions, and with those that BM25 brings to it, or any others."""
        public = self._public()
        id_ = rng.choice(list(public.questions))
        passage = self._public_passage(id_)
        positives = [
            Asked(row["question"], held) for row in public.questions[id_]
            if (held := self._held(row, passage)) or not row["answers"]
        ]  # fmt: skip
        near = public.negatives.questions.get(id_, [])
        chosen = rng.sample(near, min(len(near), 4))
        hard = [public.by_id[one] for one in chosen if rng.random() < stage.near]
        any_ = [public.by_id[one] for one in rng.sample(list(public.by_id), 2)]
        negatives = [Asked(row["question"]) for row in hard + any_ if row["passage_id"] != id_]
        return [self._score_tree(passage, positives, negatives, PUBLIC_SCORE, rng)]

    def _public_answer(self, stage: Stage, rng: random.Random) -> list[Tree]:
        """A question's passage among those that BM25 takes for it; what is asked of each, and of one left out."""
        public = self._public()
        count = rng.randint(*stage.passages)
        row = rng.choice(list(public.by_id.values()))
        near = public.negatives.passages[row["id"]][: 2 * count]
        *others, absent = rng.sample(near, min(len(near), count)) or [rng.choice(list(public.passages))]
        ids = rng.sample([row["passage_id"], *others], 1 + len(others))
        shown = [self._public_passage(id_) for id_ in ids]
        place = ids.index(row["passage_id"])
        asked = [Asked(row["question"], self._held(row, shown[place]), place)]
        more = [
            Asked(other["question"], self._held(other, shown[place]), place)
            for place, id_ in enumerate(ids) for other in public.questions.get(id_, ()) if other is not row
        ]  # fmt: skip
        asked += rng.sample(more, min(len(more), 7))
        asked = [one for one in asked if one.answer]
        unanswered = public.questions.get(absent, [])
        if unanswered and rng.random() < stage.unanswerable:
            asked += [Asked(one["question"]) for one in rng.sample(unanswered, min(len(unanswered), 2))]
        return [self._answer_tree(shown, asked, PUBLIC_ANSWER)] if asked else []

    def _held(self, row: dict[str, Any], passage: tuple[str, str]) -> str:
        """The first of the answers that the passage, as far as it is shown, has; empty if none."""
        return next((answer for answer in row["answers"] if answer in passage[1]), "")

    def _group(self, stage: Stage, rng: random.Random, count: int) -> list[Document]:
        world = self.world
        if stage.families is not None:
            step = len(world.families) // stage.families
            world = replace(world, families=world.families[::step][: stage.families])
        return world.sample_group(
            rng, num_documents=count, max_facts=stage.max_facts, explicit=stage.explicit, split=stage.split,
            bare=stage.short, asks=stage.asks,
        )  # fmt: skip

    def _public(self) -> PublicText:
        if self.public is None:
            raise ValueError("this stage wants public text, but none was given")
        return self.public

    def _public_passage(self, id_: str) -> tuple[str, str]:
        row = self._public().passages[id_]
        return row["title"], " ".join(row["text"].split()[: self.max_words])

    def _answer_tree(self, passages: Sequence[tuple[str, str]], asked: Sequence[Asked], kind: int) -> Tree:
        """`passages`: titles and texts."""
        texts = [self.prompts.passage_text(*passage) for passage in passages]
        written = self.prompts.answer_prompt("", texts).context
        parts = [self.ids(part) for part in written]
        titles = [self._tokens_of(title, part) for (title, _), part in zip(passages, written, strict=True)]
        starts = list(accumulate(map(len, parts), initial=0))
        end = [token_id(self.tokenizer, EOS)]
        branches = []
        for question in asked:
            spots, homes = [NOWHERE], []
            if question.answer:
                start, title = starts[question.place], titles[question.place]
                spots = [start + at for at in self._spots(question, parts[question.place], title)]
                homes = [range(start + title.start, start + title.stop)] * len(spots)
            target = self.ids(f" {question.answer or self.prompts.abstention}")
            turn = self.prompts.answer_prompt(question.text, []).turn
            name = self._tokens_of(question.title, turn)
            branches.append(Branch(self.ids(turn), target + end, kind, spots, homes, name))
        return Tree([id_ for part in parts for id_ in part], branches)

    def _score_tree(self, passage: tuple[str, str], positives: Sequence[Asked], negatives: Sequence[Asked],
                    kind: int, rng: random.Random) -> Tree:  # fmt: skip
        written = self.prompts.score_prompt("", self.prompts.passage_text(*passage)).context[0]
        context, title = self.ids(written), self._tokens_of(passage[0], written)
        count = min(len(positives), len(negatives), 4)
        num_wrong = min(len(negatives), count + 2) if kind == PUBLIC_SCORE else count
        branches = [
            self._verdict(question, self.prompts.label_true, self._spots(question, context, title), title, kind)
            for question in rng.sample(positives, count)
        ]
        branches += [
            self._verdict(question, self.prompts.label_false, [NOWHERE], range(0), kind)
            for question in rng.sample(negatives, num_wrong)
        ]
        return Tree(context, branches)

    def _verdict(self, asked: Asked, label: str, spots: Sequence[int], home: range, kind: int) -> Branch:
        turn = self.prompts.score_prompt(asked.text, "").turn
        name = self._tokens_of(asked.title, turn)
        return Branch(self.ids(turn), self.ids(label), kind, spots, [home] * len(spots), name)

    def _spots(self, asked: Asked, context: Sequence[int], title: range) -> list[int]:
        """Where a passage's text, which follows its number and title, has the answer."""
        if not asked.answer:
            return []
        wanted = self.ids(f" {asked.answer}")
        starts = range(title.stop, len(context) - len(wanted) + 1)
        return [at for at in starts if context[at : at + len(wanted)] == wanted]

    def _tokens_of(self, part: str, text: str) -> range:
        """The tokens of `text` that hold the first occurrence of `part`; none if it is empty or does not occur."""
        start = text.casefold().find(part.casefold())
        if not part or start < 0:
            return range(0)
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        held = [at for at, (begin, end) in enumerate(offsets) if begin < start + len(part) and end > start]
        return range(held[0], held[-1] + 1)


def shortened(prompts: PromptSet) -> PromptSet:
    """The prompts without system text and the instructions on answers, for the first steps."""
    return replace(prompts, system="", answer_turn="User: {question}\n\nAssistant:")


def _unanswered(documents: Iterable[Document], shown: Iterable[Document]) -> list[Question]:
    """What the documents leave out and none of those shown states."""
    stated = {(document.title, question.field) for document in shown for question in document.questions}
    missing = ((document.title, question) for document in documents for question in document.missing)
    return [question for title, question in missing if (title, question.field) not in stated]


def training_texts(world: World, public: PublicText | None, rng: random.Random, *, num_documents: int) -> Iterator[str]:
    """Text to train a tokenizer on: invented documents with their questions, then public ones with theirs.

    Each begins with a space, as passages and questions do inside a prompt.
    """
    for _ in range(num_documents // 4):
        for document in world.sample_group(rng, num_documents=4, max_facts=9, explicit=0.5):
            yield f" {document.title}. {document.text}"
            yield from (f" {question.text}" for question in document.questions)
    if public is not None:
        for id_, rows in public.questions.items():
            yield f" {public.passages[id_]['title']}. {public.passages[id_]['text']}"
            yield from (f" {row['question']}" for row in rows)
