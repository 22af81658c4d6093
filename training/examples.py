"""What the demo model trains on: trees of questions over invented passages and over public text."""

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from service.core.prompts import PromptSet
from training.packing import ANSWER, NOWHERE, PUBLIC_ANSWER, PUBLIC_SCORE, SCORE, Branch, Tree
from training.tokenizer import EOS, token_id
from training.world import Document, Question, World


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
    by_title: dict[str, list[str]]

    @classmethod
    def load(cls, passages: Path, questions: Path) -> "PublicText":
        rows = {row["id"]: row for row in read_jsonl(passages)}
        by_passage: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in read_jsonl(questions):
            by_passage[row["passage_id"]].append(row)
        by_title: dict[str, list[str]] = defaultdict(list)
        for id_ in by_passage:
            by_title[rows[id_]["title"]].append(id_)
        return cls(rows, dict(by_passage), dict(by_title))


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
    max_words: int = 130

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
        asked = [(q.text, q.answer, place) for place, document in enumerate(shown) for q in document.questions]
        unanswerable = [*_unanswered(shown, shown), *absent.questions]
        asked = rng.sample(asked, min(len(asked), 16))
        num_unanswerable = 1 + len(asked) // 5 if rng.random() < stage.unanswerable else 0
        num_unanswerable = min(len(unanswerable), num_unanswerable)
        asked += [(question.text, "", 0) for question in rng.sample(unanswerable, num_unanswerable)]
        return [self._answer_tree([self._passage(document) for document in shown], asked, ANSWER)]

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
        positives = [(question.text, question.answer) for question in document.questions]
        return self._score_tree(self._passage(document), positives, _texts(others), SCORE, rng)

    def _public_score(self, stage: Stage, rng: random.Random) -> list[Tree]:
        public = self._public()
        ids = self._same_title(rng, 3)
        trees = []
        for id_ in ids[: rng.randint(1, 2)]:
            positives = [(row["question"], (row["answers"] or ["?"])[0]) for row in public.questions[id_]]
            siblings = [o for o in public.by_title[public.passages[id_]["title"]] if o != id_]
            # Passages of one article are nearer to each other than invented near-misses: half as often.
            hard = rng.sample(siblings, min(len(siblings), 6)) if rng.random() < stage.near / 2 else []
            hard = hard or rng.sample(list(public.questions), 6)
            negatives = [rng.choice(public.questions[other])["question"] for other in hard]
            trees.append(self._score_tree(self._public_passage(id_), positives, negatives, PUBLIC_SCORE, rng))
        return trees

    def _public_answer(self, stage: Stage, rng: random.Random) -> list[Tree]:
        public = self._public()
        count = rng.randint(1, min(stage.passages[1], 3))
        *shown, absent = self._same_title(rng, count + 1) if count else []
        rows = [(row, place) for place, id_ in enumerate(shown) for row in public.questions[id_] if row["answers"]]
        asked = [(row["question"], row["answers"][0], place) for row, place in rng.sample(rows, min(len(rows), 6))]
        if absent not in shown:
            asked += [(row["question"], "", 0) for row in public.questions[absent][:1]]
        passages = [self._public_passage(id_) for id_ in shown]
        return [self._answer_tree(passages, asked, PUBLIC_ANSWER)]

    def _same_title(self, rng: random.Random, count: int) -> list[str]:
        public = self._public()
        title = public.passages[rng.choice(list(public.questions))]["title"]
        pool = public.by_title[title]
        chosen = rng.sample(pool, min(len(pool), count))
        return chosen + rng.choices(list(public.questions), k=count - len(chosen))

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

    def _public_passage(self, id_: str) -> str:
        row = self._public().passages[id_]
        words = row["text"].split()
        return self.prompts.passage_text(row["title"], " ".join(words[: self.max_words]))

    def _passage(self, document: Document) -> str:
        return self.prompts.passage_text(document.title, document.text)

    def _answer_tree(self, passages: Sequence[str], asked: Sequence[tuple[str, str, int]], kind: int) -> Tree:
        """`asked`: questions, their answers (empty: none) and the places of the passages that hold them."""
        parts = [self.ids(part) for part in self.prompts.answer_prompt("", passages).context]
        starts = list(accumulate(map(len, parts), initial=0))
        end = [token_id(self.tokenizer, EOS)]
        branches = []
        for text, answer, place in asked:
            turn = self.ids(self.prompts.answer_prompt(text, []).turn)
            target = self.ids(f" {answer or self.prompts.abstention}")
            found = [starts[place] + at for at in _occurrences(target, parts[place])] if answer else [NOWHERE]
            branches.append(Branch(turn, target + end, kind, found))
        return Tree([id_ for part in parts for id_ in part], branches)

    def _score_tree(self, passage: str, positives: Sequence[tuple[str, str]], negatives: Sequence[str],
                    kind: int, rng: random.Random) -> Tree:  # fmt: skip
        """`positives`: questions with their answers."""
        context = self.ids(self.prompts.score_prompt("", passage).context[0])
        count = min(len(positives), len(negatives), 3 if kind == PUBLIC_SCORE else 4)
        branches = [
            self._verdict(text, self.prompts.label_true, _occurrences(self.ids(f" {answer}"), context), kind)
            for text, answer in rng.sample(positives, count)
        ]
        branches += [
            self._verdict(text, self.prompts.label_false, [NOWHERE], kind) for text in rng.sample(negatives, count)
        ]
        return Tree(context, branches)

    def _verdict(self, question: str, label: str, spots: Sequence[int], kind: int) -> Branch:
        return Branch(self.ids(self.prompts.score_prompt(question, "").turn), self.ids(label), kind, spots)


def _occurrences(wanted: Sequence[int], ids: Sequence[int]) -> list[int]:
    """Where `wanted` begins in `ids`."""
    return [at for at in range(len(ids) - len(wanted) + 1) if ids[at : at + len(wanted)] == wanted]


def shortened(prompts: PromptSet) -> PromptSet:
    """The prompts without system text and the instructions on answers, for the first steps."""
    return replace(prompts, system="", answer_turn="User: {question}\n\nAssistant:")


def _unanswered(documents: Iterable[Document], shown: Iterable[Document]) -> list[Question]:
    """What the documents leave out and none of those shown states."""
    stated = {(document.title, question.field) for document in shown for question in document.questions}
    missing = ((document.title, question) for document in documents for question in document.missing)
    return [question for title, question in missing if (title, question.field) not in stated]


def _texts(questions: Iterable[Question]) -> list[str]:
    return [question.text for question in questions]


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
