"""A made-up world: short prose about random entities, with questions on it.

A family (mountains, novels, ...) is a YAML file of templates. `World.sample_group` invents
entities of the families and renders them to documents for training. The same templates turn
the real facts of `facts/*.csv` into the demo's corpus: `python -m training.demo.world demo --out demo`.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

FAMILIES = Path(__file__).with_name("families")
FACTS = Path(__file__).with_name("facts")
DEMO_SEED = 20240
NAMES_FILE = "_names.yaml"
MIN_WORDS, MAX_WORDS = 25, 90
LEAST_WORDS = (MIN_WORDS, 40)  # of training documents
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
PRONOUNS = {
    "it": ("it", "its", "it"),
    "she": ("she", "her", "her"),
    "he": ("he", "his", "him"),
}
SLOT = re.compile(r"\{(\w+)\}")
OF_NAME = re.compile(r"^The ([a-z][a-z ]*?) of \{name\}")
SINGULAR = re.compile(r"^\{value\}|\b(was|is) \{value\}|\b(character|firm|engineer|architect)\b.* \{value\}")
NUMBER = re.compile(r"([\d,.]+) (\w[\w ]*)")
DATE = re.compile(r"(\d+) ([A-Z]\w+) (\d{4})")
UNITS = {
    "metres": "m", "kilometres": "km", "centimetres": "cm", "kilograms": "kg", "square kilometres": "km2",
    "degrees Celsius": "°C",
}  # fmt: skip
COMPARISONS = (
    "{name} is often compared with {rival}.",
    "{name} has little to do with {rival}.",
    "There are books that tell of both {name} and {rival}.",
    "Those who know {rival} usually know {name} too.",
    "Books on {rival} often mention {name} as well.",
    "{name} and {rival} are often named together.",
)
FOUND_SLOTS = ("stem", "place", "city", "woman", "man", "last")
VOWELS = frozenset("aeiouAEIOU")


@dataclass(frozen=True, slots=True)
class Question:
    """A question on one field of an entity; the answer is empty where the text has none."""

    text: str
    answer: str
    field: str
    title: str  # of what is asked about


@dataclass(frozen=True, slots=True)
class Document:
    """Prose about one entity, with the questions it answers and those it does not."""

    family: str
    title: str
    text: str
    questions: tuple[Question, ...]
    missing: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Flavour:
    """Sounds of one kind of language; endings by kind of name."""

    onsets: tuple[str, ...]
    vowels: tuple[str, ...]
    codas: tuple[str, ...]
    endings: Mapping[str, tuple[str, ...]]

    def word(self, rng: random.Random, kind: str) -> str:
        """An invented name: one to three syllables and an ending."""
        ending = rng.choice(self.endings[kind])
        count = rng.choices((1, 2, 3), (50, 45, 5))[0] + (ending == "")
        stem = "".join(self._syllable(rng) for _ in range(count))
        if ending[:1] in VOWELS and stem[-1] in VOWELS:
            stem = stem.rstrip("aeiou") or stem
        return stem + ending if kind == "root" else (stem + ending).capitalize()

    def _syllable(self, rng: random.Random) -> str:
        coda = rng.choice(self.codas) if rng.random() < 0.5 else ""
        return rng.choice(self.onsets) + rng.choice(self.vowels) + coda


@dataclass(frozen=True, slots=True)
class Names:
    """Fills the slots of name patterns such as "Mount {stem}"."""

    flavours: tuple[Flavour, ...]
    lists: Mapping[str, tuple[str, ...]]
    patterns: Mapping[str, tuple[str, ...]]
    # For a slot: the lists to draw from with their weights; "invent:place" invents a name.
    mixes: Mapping[str, tuple[tuple[str, ...], tuple[float, ...]]]

    @classmethod
    def load(cls, path: Path) -> Names:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls(
            flavours=tuple(_flavour(flavour) for flavour in data["flavours"].values()),
            lists={name: _items(text) for name, text in data["lists"].items()},
            patterns={name: _lines(text) for name, text in data["patterns"].items()},
            mixes={slot: (tuple(mix), tuple(mix.values())) for slot, mix in data["mixes"].items()},
        )

    def fill(self, rng: random.Random, pattern: str, theme: Mapping[str, str]) -> str:
        """Fill a pattern's slots; a slot in `theme` often takes the theme's word."""

        def draw(match: re.Match[str]) -> str:
            slot = match[1]
            if slot in theme and rng.random() < 0.55:
                return theme[slot]
            return self.draw(rng, slot, theme)

        return SLOT.sub(draw, pattern)

    def with_found(self, words: Sequence[str], share: float) -> Names:
        """Names that are often one of these words: single names come from them with this probability."""

        def mixed(slot: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
            sources, weights = self.mixes[slot]
            return (*sources, "found"), (*weights, sum(weights) * share / (1 - share))

        mixes = {slot: mixed(slot) for slot in FOUND_SLOTS}
        return replace(self, lists={**self.lists, "found": tuple(words)}, mixes={**self.mixes, **mixes})

    def draw(self, rng: random.Random, slot: str, theme: Mapping[str, str]) -> str:
        if slot in self.mixes:
            sources, weights = self.mixes[slot]
            slot = rng.choices(sources, weights)[0]
        if slot.startswith("invent:"):
            return rng.choice(self.flavours).word(rng, slot.removeprefix("invent:"))
        if slot in self.patterns:
            return self.fill(rng, rng.choice(self.patterns[slot]), theme)
        return rng.choice(self.lists[slot])


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that can be said of an entity."""

    key: str
    kind: str
    options: tuple[str, ...]  # patterns, words or units, by kind
    low: float
    high: float
    decimals: int
    after: str  # the field whose year this one follows by low..high years
    shareable: bool
    sentences: tuple[str, ...]
    questions: tuple[str, ...]

    def sample(self, rng: random.Random, names: Names, known: Mapping[str, str]) -> str:
        """A random value, later than the field named by `after` where there is one."""
        if self.kind == "named":
            return names.fill(rng, rng.choice(self.options), {})
        if self.kind == "one_of":
            return rng.choice(self.options)
        if self.kind == "number":
            return self._number(rng)
        start = int(known[self.after][-4:]) if self.after else 0
        year = start + rng.randint(int(self.low), int(self.high))
        if self.kind == "year":
            return str(year)
        return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {year}"

    def _number(self, rng: random.Random) -> str:
        wide = self.high > 50 * max(self.low, 1)
        number = rng.uniform(self.low, self.high)
        if wide:
            number = max(self.low, 1) * (self.high / max(self.low, 1)) ** rng.random()
        if self.decimals == 0 and number > 1000 and rng.random() < 0.3:
            number = round(number, -2)
        text = f"{number:,.{self.decimals}f}"
        return f"{text} {rng.choice(self.options)}" if self.options else text


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of entity: how its members are named and what is said of them."""

    key: str
    people: bool
    nouns: tuple[str, ...]
    names: tuple[str, ...]
    intros: tuple[str, ...]
    fillers: tuple[str, ...]
    fields: tuple[Field, ...]

    @classmethod
    def load(cls, path: Path) -> Family:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls(
            key=path.stem,
            people=data.get("people", False),
            nouns=_items(data["nouns"]),
            names=_lines(data["names"]),
            intros=_lines(data["intros"]),
            fillers=_lines(data["fillers"]),
            fields=tuple(_field(key, field) for key, field in data["fields"].items()),
        )


@dataclass(frozen=True, slots=True)
class Entity:
    """One member of a family. A lower-case "the " before a name or value is only grammar."""

    family: Family
    name: str
    pronoun: str
    values: Mapping[str, str]

    @property
    def title(self) -> str:
        return _capital(_bare(self.name))

    @property
    def known(self) -> list[Field]:
        """The fields that have a value."""
        return [field for field in self.family.fields if self.values.get(field.key)]


@dataclass(frozen=True, slots=True)
class Style:
    """How documents are written."""

    max_facts: int
    explicit: float
    intro: float = 0.8
    filler: float = 0.3
    join: float = 0.2
    compare: float = 0.3
    asks: int = 1
    min_facts: int = 1
    min_words: int = MIN_WORDS


@dataclass(frozen=True, slots=True)
class World:
    """All families, and the names their members take."""

    families: tuple[Family, ...]
    names: Names
    reserved: frozenset[str]

    @classmethod
    def load(cls, directory: Path = FAMILIES, reserved: frozenset[str] = frozenset()) -> World:
        """Read the families; no entity sampled has a title in `reserved`."""
        paths = sorted(path for path in directory.glob("*.yaml") if path.name != NAMES_FILE)
        return cls(
            families=tuple(Family.load(path) for path in paths),
            names=Names.load(directory / NAMES_FILE),
            reserved=frozenset(title.casefold() for title in reserved),
        )

    def sample_group(
        self, rng: random.Random, *, num_documents: int, max_facts: int, explicit: float, split: float = 0.0,
        bare: bool = False, asks: int = 1,
    ) -> list[Document]:  # fmt: skip
        """Documents that are easily taken for one another; `bare` ones state facts only.

        Each is on another entity, save that with a chance of `split` an entity has two to five documents, which
        state different facts. What is stated is asked in up to `asks` ways.
        """
        style = Style(max_facts=max_facts, explicit=explicit, asks=asks, min_words=rng.choice(LEAST_WORDS))
        if bare:
            style = replace(style, intro=0.0, filler=0.0, compare=0.0, min_words=0)
        documents: list[Document] = []
        entities = self.sample_entities(rng, num_documents)
        for entity in entities:
            rivals = [other.name for other in entities if other.family is entity.family and other is not entity]
            parts = rng.randint(2, 5) if rng.random() < split else 1
            documents += [render(rng, entity, style, part, rivals) for part in deal(rng, entity.known, parts)]
        return rng.sample(documents[:num_documents], num_documents)

    def sample_entities(self, rng: random.Random, count: int) -> list[Entity]:
        """Entities mostly of one family that share words of their names and field values."""
        home = rng.choice(self.families) if rng.random() < 0.7 else None
        theme = self._theme(rng) if rng.random() < 0.6 else {}
        shared = self._shared_values(rng, home) if home else {}
        entities: list[Entity] = []
        while len(entities) < count:
            entity = self.sample_entity(rng, home or rng.choice(self.families), theme, shared)
            if _stands_apart(entity, entities):
                entities.append(entity)
        return entities

    def sample_entity(
        self, rng: random.Random, family: Family, theme: Mapping[str, str], shared: Mapping[str, str]
    ) -> Entity:
        name, pronoun = self._free_name(rng, family, theme)
        values: dict[str, str] = {}
        for field in family.fields:
            take_shared = field.key in shared and rng.random() < 0.6
            values[field.key] = shared[field.key] if take_shared else field.sample(rng, self.names, values)
        return Entity(family, name, pronoun, values)

    def _free_name(self, rng: random.Random, family: Family, theme: Mapping[str, str]) -> tuple[str, str]:
        """A name whose title is not reserved, and its pronoun."""
        while True:
            pattern = rng.choice(family.names)
            name = self.names.fill(rng, pattern, theme)
            if _capital(_bare(name)).casefold() not in self.reserved:
                return name, ("she" if "{woman}" in pattern else "he") if family.people else "it"

    def _theme(self, rng: random.Random) -> dict[str, str]:
        slots = ("stem", "woman", "man", "last", "adjective", "noun")
        return {slot: self.names.draw(rng, slot, {}) for slot in slots}

    def _shared_values(self, rng: random.Random, family: Family) -> dict[str, str]:
        fields = (field for field in family.fields if field.shareable and not field.after)
        return {field.key: field.sample(rng, self.names, {}) for field in fields if rng.random() < 0.4}


def _stands_apart(entity: Entity, others: Sequence[Entity]) -> bool:
    """Whether neither title is part of the other, so that a question can mean only one."""
    title = entity.title.casefold()
    taken = (other.title.casefold() for other in others)
    return not any(title in other or other in title for other in taken)


def deal(rng: random.Random, fields: Sequence[Field], count: int) -> list[list[Field]]:
    """The fields in random order, dealt to at most `count` hands of about the same size."""
    shuffled = rng.sample(fields, len(fields))
    return [shuffled[hand::count] for hand in range(min(count, len(fields)))]


def render(
    rng: random.Random, entity: Entity, style: Style, fields: Sequence[Field], rivals: Sequence[str] = ()
) -> Document:
    """Write a document that states some of these fields of the entity, in random order, and may name a rival."""
    most = max(1, min(style.max_facts, len(fields)))
    stated = rng.sample(fields, rng.randint(min(style.min_facts, most), most))
    text, told = _write(rng, entity, stated, style, rivals)
    return Document(
        family=entity.family.key,
        title=entity.title,
        text=text,
        questions=tuple(
            question
            for field in told
            for question in ask(rng, entity, field, _bare(entity.values[field.key]), style.asks)
        ),
        missing=tuple(
            question
            for field in entity.known
            if field not in told and not _mentions(text, entity.values[field.key])
            for question in ask(rng, entity, field, "", 1)
        ),
    )


def ask(rng: random.Random, entity: Entity, field: Field, answer: str, count: int) -> list[Question]:
    """Up to `count` questions on one field of the entity, each in other words."""
    texts = rng.sample(field.questions, min(count, len(field.questions)))
    filled = (text.replace("{name}", entity.name).replace("{name's}", f"{entity.name}'s") for text in texts)
    return [Question(_capital(text), answer, field.key, entity.title) for text in filled]


def _write(
    rng: random.Random, entity: Entity, stated: Sequence[Field], style: Style, rivals: Sequence[str]
) -> tuple[str, list[Field]]:
    """The text, and the fields it had room for."""
    sentences = [rng.choice(entity.family.intros)] if rng.random() < style.intro else []
    told: list[Field] = []
    words = 12
    for field in stated:
        sentence = _fact(rng, entity, field)
        joined = _join(sentences[-1], sentence) if told and rng.random() < style.join else None
        if words > MAX_WORDS - 18:
            break
        told.append(field)
        words += sentence.count(" ") + 3
        if joined:
            sentences[-1] = joined
        else:
            sentences.append(sentence)
    _add_fillers(rng, entity, sentences, style)
    if rivals and rng.random() < style.compare:  # comes last, so that no later "it" can mean the rival
        sentences.append(_put(rng.choice(COMPARISONS), entity.name).replace("{rival}", rng.choice(rivals)))
    return _speak(rng, entity, sentences, style.explicit), told


def _fact(rng: random.Random, entity: Entity, field: Field) -> str:
    """A sentence on the field in which only the entity's own slots are still open."""
    value = entity.values[field.key]
    article = "an " if value[0] in VOWELS else "a "
    sentence = rng.choice(_fitting(field.sentences, value)).replace("{a value}", article + value)
    return sentence.replace("{value}", value)


def _fitting(sentences: tuple[str, ...], value: str) -> tuple[str, ...]:
    """Those that stay grammatical where the value is two people ("was Marie and Pierre Curie" is not)."""
    if " and " not in value:
        return sentences
    return tuple(sentence for sentence in sentences if not SINGULAR.search(sentence)) or sentences


def _join(first: str, second: str) -> str | None:
    """Both as one sentence, where each is the name followed by a plain predicate."""
    plain = all(
        sentence.startswith("{name} ") and sentence.count("{") == 1 and ", " not in sentence
        for sentence in (first, second)
    )
    if not plain or " and " in first:
        return None
    return f"{first[:-1]} and {second.removeprefix('{name} ')}"


def _add_fillers(rng: random.Random, entity: Entity, sentences: list[str], style: Style) -> None:
    wanted = rng.randint(1, 2) if rng.random() < style.filler else 0
    length = sum(sentence.count(" ") + 1 for sentence in sentences)
    for filler in rng.sample(entity.family.fillers, len(entity.family.fillers)):
        if length > MAX_WORDS - 18 or (wanted <= 0 and length >= style.min_words):
            return
        sentences.insert(rng.randint(1, len(sentences)), filler)
        length += filler.count(" ") + 1
        wanted -= 1


def _speak(rng: random.Random, entity: Entity, sentences: Sequence[str], explicit: float) -> str:
    """Replace the entity's slots by its name, a pronoun or a noun."""
    spoken = []
    for position, sentence in enumerate(sentences):
        if position == 0 or rng.random() < explicit:
            sentence = _put(sentence, entity.name)
        elif rng.random() < 0.7:
            sentence = _pronounced(rng, entity, sentence)
        else:
            sentence = _put(sentence, rng.choice(entity.family.nouns))
        spoken.append(_capital(sentence))
    return " ".join(spoken)


def _put(sentence: str, subject: str) -> str:
    sentence = sentence.replace("{name}", subject).replace("{name's}", f"{subject}'s")
    return sentence.replace("{whom}", subject)


def _pronounced(rng: random.Random, entity: Entity, sentence: str) -> str:
    subject, possessive, whom = PRONOUNS[entity.pronoun]
    if sentence.startswith("{name} "):
        sentence = subject + sentence.removeprefix("{name}")
    # "The height of it" reads badly: say "Its height", and elsewhere "of the mountain".
    sentence = OF_NAME.sub(rf"{possessive} \1", sentence)
    sentence = sentence.replace("{name's}", possessive).replace("{whom}", whom)
    return _put(sentence, rng.choice(entity.family.nouns))


def _bare(name: str) -> str:
    return name.removeprefix("the ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _mentions(text: str, value: str) -> bool:
    return _bare(value).casefold() in text.casefold()


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _items(text: str) -> tuple[str, ...]:
    return tuple(" ".join(item.split()) for item in text.split(",") if item.strip())


def _flavour(data: Mapping[str, str]) -> Flavour:
    # A dash stands for the empty string, which YAML would not show.
    words = {key: tuple(word.replace("-", "") for word in text.split()) for key, text in data.items()}
    return Flavour(
        onsets=words["onsets"],
        vowels=words["vowels"],
        codas=words["codas"],
        endings={kind: words[kind] for kind in ("place", "last", "woman", "man", "root")},
    )


def _field(key: str, data: Mapping[str, Any]) -> Field:
    kind = next(kind for kind in ("named", "one_of", "number", "year", "date") if kind in data)
    ranged = kind in ("number", "year", "date")
    options = data.get("units", "") if ranged else data[kind]
    low, high = data[kind] if ranged else (0, 0)
    return Field(
        key=key,
        kind=kind,
        options=_lines(options) if kind == "named" else _items(options),
        low=low,
        high=high,
        decimals=data.get("decimals", 0),
        after=data.get("after", ""),
        shareable=data.get("shareable", True),
        sentences=_lines(data["sentences"]),
        questions=_lines(data["questions"]),
    )


@dataclass(frozen=True, slots=True)
class Fact:
    """One real entity, from a row of `facts/<family>.csv`."""

    id: str
    entity: Entity


@dataclass(frozen=True, slots=True)
class Passage:
    """A fact's entity with one of the documents written about it."""

    id: str
    fact: Fact
    document: Document

    def row(self) -> dict[str, Any]:
        entity = self.fact.entity
        metadata = {"family": entity.family.key}
        if country := entity.values.get("country"):
            metadata["country"] = _bare(country)
        return {
            "id": self.id,
            "title": entity.title,
            "text": self.document.text,
            "metadata": metadata,
        }


def demo_titles(directory: Path = FACTS) -> frozenset[str]:
    """Titles of the demo's entities, which training must not use."""
    rows = (row for path in sorted(directory.glob("*.csv")) for row in _rows(path))
    return frozenset(_capital(_bare(row["title"])) for row in rows)


def load_facts(world: World, directory: Path = FACTS) -> list[Fact]:
    """The real entities, family by family."""
    return [
        _fact_of(family, row)
        for family in world.families
        if (path := directory / f"{family.key}.csv").exists()
        for row in _rows(path)
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _fact_of(family: Family, row: Mapping[str, str]) -> Fact:
    values = {field.key: row[field.key] for field in family.fields if row.get(field.key)}
    return Fact(row["id"], Entity(family, row["title"], row.get("pronoun") or "it", values))


def demo_passages(rng: random.Random, facts: Sequence[Fact]) -> list[Passage]:
    """A passage for each field that is known of an entity; most entities keep one field to themselves."""
    names: dict[Family, list[str]] = defaultdict(list)
    for fact in facts:
        names[fact.entity.family].append(fact.entity.name)
    return [passage for fact in facts for passage in _fact_passages(rng, fact, names[fact.entity.family])]


def _fact_passages(rng: random.Random, fact: Fact, names: Iterable[str]) -> list[Passage]:
    """Near-misses of one another: each states a field of its own, and half of them one that they share."""
    entity = fact.entity
    known = rng.sample(entity.known, len(entity.known))
    shared, *own = known[1:] if len(known) > 3 and rng.random() < 0.6 else known
    stated = [[shared], *([field, shared] if rng.random() < 0.5 else [field] for field in own)]
    rivals = [name for name in names if name not in entity.name and entity.name not in name]
    return [
        Passage(f"{fact.id}-{number}", fact, render(rng, entity, _demo_style(len(fields)), fields, rivals))
        for number, fields in enumerate(stated, 1)
    ]


def _demo_style(stated: int) -> Style:
    return Style(max_facts=stated, min_facts=stated, explicit=0.5, intro=0.8, compare=0.5, min_words=44)


def demo_questions(rng: random.Random, world: World, passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """Questions with one right passage each, then questions that no passage answers."""
    rows = _answerable(rng, passages) + _left_out(rng, passages) + _unheard_of(rng, world, passages)
    return [{"id": f"q{number:03}", **row} for number, row in enumerate(rows, 1)]


def _answerable(rng: random.Random, passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """About half of the passages, each asked for the field that was asked for least so far."""
    asked: Counter[tuple[str, str]] = Counter()
    rows = []
    for passage in rng.sample(passages, len(passages)):
        family = passage.document.family
        fair = [q for q in passage.document.questions if _has_one_source(q, passage, passages)]
        # A first, then a second question for a field, and so on to at most 2 a field.
        fair = [q for q in fair if asked[family, q.field] < 2]
        if fair:
            question = min(fair, key=lambda q: asked[family, q.field])
            asked[family, question.field] += 1
            rows.append(_question_row(question, passage.id))
    return rows


def _has_one_source(question: Question, passage: Passage, passages: Iterable[Passage]) -> bool:
    """No other passage states the answer, and no other title can be read in the question."""
    title = _bare(passage.fact.entity.name)
    others = [other for other in passages if other is not passage]
    rivals = (_bare(other.fact.entity.name) for other in others if other.fact is not passage.fact)
    clear = not any(len(rival) >= len(title) and rival in question.text for rival in rivals)
    return clear and not _stated_in(title, question.answer, others)


def _stated_in(title: str, answer: str, passages: Iterable[Passage]) -> bool:
    """Whether a passage names both."""
    name = re.compile(rf"\b{re.escape(title)}(?!\w)")
    return any(answer in other.document.text and name.search(other.document.text) for other in passages)


def _left_out(rng: random.Random, passages: Sequence[Passage], count: int = 30) -> list[dict[str, Any]]:
    """Questions on known fields that every passage leaves out; one an entity."""
    secrets = {
        passage.fact.id: question
        for passage in passages
        for question in passage.document.missing
        if _is_secret(passage, question, passages)
    }
    return [_question_row(question, None) for question in rng.sample(list(secrets.values()), count)]


def _is_secret(passage: Passage, question: Question, passages: Iterable[Passage]) -> bool:
    entity = passage.fact.entity
    return not _stated_in(_bare(entity.name), _bare(entity.values[question.field]), passages)


def _unheard_of(rng: random.Random, world: World, passages: Sequence[Passage], count: int = 12) -> list[dict[str, Any]]:
    """Questions on entities that do not exist."""
    present = {passage.document.family for passage in passages}
    families = rng.sample([family for family in world.families if family.key in present], count)
    entities = (world.sample_entity(rng, family, {}, {}) for family in families)
    questions = (ask(rng, entity, entity.family.fields[0], "", 1)[0] for entity in entities)
    return [_question_row(question, None) for question in questions]


def _question_row(question: Question, passage_id: str | None) -> dict[str, Any]:
    answers = _spellings(question.answer) if passage_id else []
    return {
        "question": question.text,
        "answers": answers,
        "passage_id": passage_id,
        "answerable": passage_id is not None,
    }


def _spellings(answer: str) -> list[str]:
    """The answer, then other fair ways to write it."""
    others: list[str] = []
    if number := NUMBER.fullmatch(answer):
        digits, unit = number[1], number[2]
        short = [f"{digits} {UNITS[unit]}"] if unit in UNITS else []
        others = [*short, f"{digits.replace(',', '')} {unit}", digits]
    elif date := DATE.fullmatch(answer):
        others = [f"{date[2]} {date[1]}, {date[3]}"]
    elif answer == "United Kingdom":
        others = ["UK"]
    elif answer == "United States":
        others = ["USA", "United States of America"]
    return list(dict.fromkeys([answer, *others]))


def write_demo(out: Path) -> None:
    """Write the demo's corpus and questions; the same files each time."""
    rng = random.Random(DEMO_SEED)
    world = World.load(reserved=demo_titles())
    passages = demo_passages(rng, load_facts(world))
    out.mkdir(parents=True, exist_ok=True)
    _write_rows(out / "corpus.jsonl", [passage.row() for passage in passages])
    _write_rows(out / "questions.jsonl", demo_questions(rng, world, passages))


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.demo.world")
    parser.add_argument("command", choices=["demo"])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    write_demo(parser.parse_args().out)


if __name__ == "__main__":
    main()
