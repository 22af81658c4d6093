"""Invented data in every format that the readers know, for smoke runs, dry runs and tests.

`python -m training.toy FOLDER` writes it. All names and numbers are made up.
"""

import argparse
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import config

_SYLLABLES = ("ba", "do", "ke", "li", "mar", "no", "pel", "ri", "sa", "tor", "ul", "ven", "wi", "zan")
_KINDS = ("bridge", "castle", "lighthouse", "mill", "observatory", "tower")
_FIELDS: Mapping[str, tuple[str, str]] = {
    "year": ("In which year was {name} built?", "{name} was built in {value}."),
    "height": ("How high is {name}?", "{name} is {value} high, which visitors rarely guess."),
    "architect": ("Who designed {name}?", "The plans of {name} were drawn by {value}."),
    "place": ("Where does {name} stand?", "{name} stands near {value}, an hour away on foot."),
}
_FILLING = (
    "Many people come to see it.", "The view changes with the season.", "Its walls were repaired more than once.",
    "A small museum tells of its history.", "It is closed in winter.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sight:
    """An invented building; its passage leaves one field out, on which nothing can be answered."""

    id: str
    name: str
    text: str
    facts: Mapping[str, str]
    missing: str

    @property
    def passage(self) -> dict[str, str]:
        return {"id": self.id, "title": self.name, "text": self.text}


def sights(count: int, seed: int = 7) -> list[Sight]:
    rng = random.Random(seed)
    return [_sight(number, rng) for number in range(count)]


def _sight(number: int, rng: random.Random) -> Sight:
    name = f"the {_name(rng)} {rng.choice(_KINDS)}"
    values = {
        "year": str(rng.randint(1200, 1999)), "height": f"{rng.randint(11, 99)} metres",
        "architect": f"{_name(rng)} {_name(rng)}", "place": _name(rng),
    }  # fmt: skip
    missing = rng.choice(list(values))
    facts = {field: value for field, value in values.items() if field != missing}
    sentences = [_FIELDS[field][1].format(name=name, value=value) for field, value in facts.items()]
    sentences += rng.sample(_FILLING, 2)
    rng.shuffle(sentences)
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    return Sight(f"sight-{number}", name, text, facts, missing)


def _name(rng: random.Random) -> str:
    return "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))).capitalize()


def question(sight: Sight, field: str) -> str:
    return _FIELDS[field][0].format(name=sight.name)


def texts(system: str) -> list[str]:
    """Enough to train a small tokenizer on; `system` is what every prompt begins with."""
    return [f"{system} {sight.text} {question(sight, field)}" for sight in sights(40) for field in sight.facts]


def write(folder: Path, count: int = 40, seed: int = 7) -> None:
    """Write all files of `sources()` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    all_ = sights(count, seed)
    asked = [(sight, field) for sight in all_ for field in sight.facts]
    _write_project(folder, all_, asked)
    _write_json(folder / "squad.json", {"version": "2.0", "data": [_article(sight) for sight in all_]})
    _write_msmarco(folder, all_, asked)
    _write_beir(folder / "beir", all_, asked)
    _write_jsonl(folder / "open_qa.jsonl", (
        {"question": question(s, f), "answers": [s.facts[f]], "positive_ctxs": [s.passage],
         "hard_negative_ctxs": [_other(all_, number).passage]}
        for number, (s, f) in enumerate(asked)))  # fmt: skip
    _write_jsonl(folder / "conversations.jsonl", (_conversation(all_, number) for number in range(len(all_))))
    _write_jsonl(folder / "instructions.jsonl", (_instruction(s, f) for s, f in asked))


def sources() -> dict[str, config.Source]:
    """By format: a source that reads what `write` wrote, paths relative to its folder."""
    return {
        "project": config.ProjectSource(format="project", passages=Path("passages.jsonl"),
                                        questions=[Path("questions.jsonl"), Path("unanswerable.jsonl")]),
        "candidates": config.CandidatesSource(format="candidates", path=Path("rerank.jsonl")),
        "squad": config.SquadSource(format="squad", path=Path("squad.json")),
        "msmarco": config.MsMarcoSource(format="msmarco", triples=Path("triples.tsv")),
        "beir": config.BeirSource(format="beir", directory=Path("beir")),
        "open_qa": config.OpenQASource(format="open_qa", path=Path("open_qa.jsonl")),
        "conversations": config.ConversationSource(format="conversations", path=Path("conversations.jsonl")),
        "instructions": config.InstructionSource(format="instructions", paths=[Path("instructions.jsonl")]),
    }  # fmt: skip


def _other(all_: Sequence[Sight], number: int) -> Sight:
    return all_[(number * 7 + 3) % len(all_)]


def _write_project(folder: Path, all_: Sequence[Sight], asked: Sequence[tuple[Sight, str]]) -> None:
    _write_jsonl(folder / "passages.jsonl", (sight.passage for sight in all_))
    _write_jsonl(folder / "questions.jsonl", (
        {"id": f"{s.id}-{f}", "question": question(s, f), "answers": [s.facts[f]], "passage_id": s.id}
        for s, f in asked))  # fmt: skip
    _write_jsonl(folder / "unanswerable.jsonl", (
        {"id": f"{s.id}-none", "question": question(s, s.missing), "answers": [], "passage_id": s.id,
         "answerable": False} for s in all_))  # fmt: skip
    _write_jsonl(folder / "rerank.jsonl", (
        {"id": f"{s.id}-{f}", "query": question(s, f), "answers": [s.facts[f]], "candidates": [
            {**other.passage, "label": int(other is s)} for other in _candidates(all_, s)]}
        for s, f in asked))  # fmt: skip


def _candidates(all_: Sequence[Sight], sight: Sight) -> list[Sight]:
    start = int(sight.id.rpartition("-")[2])
    return [all_[(start + step) % len(all_)] for step in range(min(8, len(all_)))]


def _article(sight: Sight) -> dict[str, Any]:
    questions = [
        {"id": f"{sight.id}-{field}", "question": question(sight, field), "is_impossible": False,
         "answers": [{"text": value, "answer_start": max(sight.text.find(value), 0)}]}
        for field, value in sight.facts.items()
    ]  # fmt: skip
    questions.append(
        {"id": f"{sight.id}-none", "question": question(sight, sight.missing), "is_impossible": True, "answers": []}
    )
    return {"title": sight.name, "paragraphs": [{"context": sight.text, "qas": questions}]}


def _write_msmarco(folder: Path, all_: Sequence[Sight], asked: Sequence[tuple[Sight, str]]) -> None:
    pairs = [(s, f, _other(all_, number)) for number, (s, f) in enumerate(asked)]
    pairs = [(s, f, other) for s, f, other in pairs if other is not s]
    _write_tsv(folder / "triples.tsv", ((question(s, f), s.text, other.text) for s, f, other in pairs))
    _write_tsv(folder / "qidpidtriples.tsv", ((f"{s.id}-{f}", s.id, other.id) for s, f, other in pairs))
    _write_tsv(folder / "qrels.tsv", ((f"{s.id}-{f}", "0", s.id, "1") for s, f in asked))
    _write_tsv(folder / "queries.tsv", ((f"{s.id}-{f}", question(s, f)) for s, f in asked))
    _write_tsv(folder / "collection.tsv", ((s.id, s.text) for s in all_))


def _write_beir(folder: Path, all_: Sequence[Sight], asked: Sequence[tuple[Sight, str]]) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_jsonl(folder / "corpus.jsonl", ({"_id": s.id, "title": s.name, "text": s.text} for s in all_))
    _write_jsonl(folder / "queries.jsonl", ({"_id": f"{s.id}-{f}", "text": question(s, f)} for s, f in asked))
    rows = [("query-id", "corpus-id", "score"), *((f"{s.id}-{f}", s.id, "1") for s, f in asked)]
    _write_tsv(folder / "qrels" / "train.tsv", rows)


def _conversation(all_: Sequence[Sight], number: int) -> dict[str, Any]:
    """Two questions on one building in a document about six: long enough for several chunks."""
    sight = all_[number]
    first, second, *_ = sight.facts
    around = [all_[(number + step) % len(all_)] for step in range(6)]
    document = "\n\n".join(f"{other.text} {' '.join(_FILLING)} {' '.join(_FILLING)}" for other in around)
    reply = _FIELDS[second][1].format(name=sight.name, value=sight.facts[second])
    turns = [("user", question(sight, first)), ("assistant", sight.facts[first]), ("user", question(sight, second))]
    return {
        "messages": [{"role": role, "content": text} for role, text in turns],
        "answers": [reply[0].upper() + reply[1:]], "document": document,
    }  # fmt: skip


def _instruction(sight: Sight, field: str) -> dict[str, str]:
    return {"instruction": "Write the name in capital letters.", "input": sight.name, "output": sight.name.upper()} | (
        {"instruction": f"Shorten: {question(sight, field)}", "input": ""} if field == "year" else {}
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _write_jsonl(path: Path, rows: Iterable[object]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_tsv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
