"""The made-up world and the demo that is written from real facts."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from training.demo import world as world_module
from training.demo.world import Document, Style, World, demo_titles, render

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "demo"


@pytest.fixture(scope="module")
def world() -> World:
    return World.load(reserved=demo_titles())


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(DEMO / "corpus.jsonl")}


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    return read_rows(DEMO / "questions.jsonl")


def sample_groups(world: World, seed: int, count: int) -> list[list[Document]]:
    rng = random.Random(seed)
    return [world.sample_group(rng, num_documents=8, max_facts=7, explicit=0.5) for _ in range(count)]


def test_every_family_has_the_promised_templates(world: World) -> None:
    assert len(world.families) >= 16
    for family in world.families:
        assert 5 <= len(family.fields) <= 7, family.key
        assert len(family.intros) >= 3 and len(family.fillers) >= 3, family.key
        for field in family.fields:
            assert len(set(field.sentences)) >= 4, (family.key, field.key)
            assert len(set(field.questions)) >= 4, (family.key, field.key)


def test_every_template_names_the_entity_and_every_sentence_its_value(world: World) -> None:
    for family in world.families:
        for field in family.fields:
            for sentence in field.sentences:
                assert "value}" in sentence, sentence
                assert any(slot in sentence for slot in ("{name}", "{name's}", "{whom}")), sentence
            for question in field.questions:
                assert "{name}" in question or "{name's}" in question, question
                assert question.endswith("?")


def test_no_two_fields_of_a_family_share_a_question(world: World) -> None:
    for family in world.families:
        texts = Counter(question for field in family.fields for question in field.questions)
        assert max(texts.values()) == 1, (family.key, texts.most_common(1))


def test_answers_are_verbatim_in_their_text(world: World) -> None:
    for group in sample_groups(world, 1, 300):
        for document in group:
            assert document.questions
            for question in document.questions:
                assert question.answer and question.answer in document.text


def test_no_slot_is_left_open(world: World) -> None:
    for group in sample_groups(world, 2, 300):
        for document in group:
            texts = [document.text, *(q.text for q in document.questions + document.missing)]
            assert not any("{" in text or "}" in text for text in texts)


def test_missing_fields_are_absent(world: World) -> None:
    rng = random.Random(3)
    seen = 0
    for _ in range(200):
        for entity in world.sample_entities(rng, 4):
            document = render(rng, entity, Style(max_facts=3, explicit=0.5), entity.known)
            told = {question.field for question in document.questions}
            for question in document.missing:
                seen += 1
                assert question.answer == "" and question.field not in told
                value = entity.values[question.field].removeprefix("the ")
                assert value.casefold() not in document.text.casefold()
    assert seen > 1000


def test_titles_in_a_group_cannot_be_confused(world: World) -> None:
    for group in sample_groups(world, 4, 300):
        titles = [document.title.casefold() for document in group]
        for title in titles:
            assert sum(title in other for other in titles) == 1


def test_groups_are_near_misses(world: World) -> None:
    groups = sample_groups(world, 5, 400)
    one_family = sum(len({document.family for document in group}) == 1 for group in groups)
    assert 0.6 < one_family / len(groups) < 0.8
    share_answer = 0
    for group in groups:
        answers = Counter((q.field, q.answer) for document in group for q in document.questions)
        share_answer += max(answers.values()) > 1
    assert share_answer / len(groups) > 0.4


def test_sampling_follows_the_seed(world: World) -> None:
    assert sample_groups(world, 6, 20) == sample_groups(world, 6, 20)
    assert sample_groups(world, 6, 20) != sample_groups(world, 7, 20)


def test_split_entities_have_documents_of_different_facts(world: World) -> None:
    rng = random.Random(13)
    for _ in range(100):
        group = world.sample_group(rng, num_documents=4, max_facts=7, explicit=0.5, split=1.0)
        assert len({document.title for document in group}) < len(group) == 4
        stated = [(document.title, question.field) for document in group for question in document.questions]
        assert len(set(stated)) == len(stated)


def test_a_last_sentence_may_name_a_rival_of_the_group(world: World) -> None:
    rng = random.Random(14)
    compared = 0
    for _ in range(100):
        group = world.sample_group(rng, num_documents=4, max_facts=2, explicit=1.0)
        for document in group:
            others = [other.title.casefold() for other in group if other is not document]
            last = document.text.casefold().rstrip(".").split(". ")[-1]
            compared += any(title in last for title in others)
    assert 50 < compared < 150


def test_asks_puts_the_same_question_in_other_words(world: World) -> None:
    (document,) = world.sample_group(random.Random(15), num_documents=1, max_facts=1, explicit=1.0, asks=3)
    assert len({question.text for question in document.questions}) == 3
    assert len({(question.field, question.answer) for question in document.questions}) == 1


def test_max_facts_and_explicit_are_respected(world: World) -> None:
    rng = random.Random(8)
    for _ in range(100):
        for document in world.sample_group(rng, num_documents=4, max_facts=2, explicit=1.0):
            assert 1 <= len(document.questions) <= 2
            assert " it " not in document.text.casefold().split(".")[0]


def test_the_first_sentence_names_the_entity(world: World) -> None:
    for group in sample_groups(world, 9, 200):
        for document in group:
            name = document.title.casefold()
            assert document.text.casefold().find(name) in range(120)


def test_lengths_stay_in_bounds(world: World) -> None:
    lengths = [len(doc.text.split()) for group in sample_groups(world, 10, 300) for doc in group]
    assert min(lengths) >= 20
    assert sorted(lengths)[int(len(lengths) * 0.99)] <= 100


def test_a_demo_title_cannot_be_sampled() -> None:
    free = World.load()
    rng = random.Random(11)
    titles = [entity.title for entity in free.sample_entities(rng, 8)]
    reserved = World.load(reserved=frozenset(titles))
    sampled = [entity.title for entity in reserved.sample_entities(random.Random(11), 8)]
    assert not set(titles) & set(sampled)


def test_no_sampled_title_is_in_the_demo(world: World) -> None:
    demo = {title.casefold() for title in demo_titles()}
    sampled = {doc.title.casefold() for group in sample_groups(world, 12, 1000) for doc in group}
    assert not demo & sampled


def test_demo_titles_are_the_titles_of_the_corpus(corpus: dict[str, dict[str, Any]]) -> None:
    titles = {row["title"] for row in corpus.values()}
    assert titles == demo_titles()
    assert len({title.casefold() for title in titles}) == len(titles)


def test_the_committed_demo_is_what_the_command_writes(tmp_path: Path) -> None:
    world_module.write_demo(tmp_path)
    for name in ("corpus.jsonl", "questions.jsonl"):
        assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes()


def test_demo_passages(corpus: dict[str, dict[str, Any]]) -> None:
    assert len(corpus) >= 340
    assert len({row["metadata"]["family"] for row in corpus.values()}) >= 14
    for row in corpus.values():
        assert 40 <= len(row["text"].split()) <= 90, row["id"]
        assert row["id"].startswith(row["metadata"]["family"] + "-")


def test_demo_entities_have_several_passages(corpus: dict[str, dict[str, Any]]) -> None:
    """Near-misses on purpose: the same title, another fact."""
    passages = Counter(row["title"] for row in corpus.values())
    assert sorted(passages.values())[len(passages) // 2] >= 4


def test_demo_answers_are_in_their_passages(corpus: dict[str, dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    answerable = [row for row in questions if row["answerable"]]
    assert len(answerable) >= 150
    for row in answerable:
        assert row["answers"][0] in corpus[row["passage_id"]]["text"], row


def test_demo_questions_mean_one_passage(corpus: dict[str, dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    for row in questions:
        if row["answerable"]:
            title = corpus[row["passage_id"]]["title"]
            # Elements are lower-case in prose: ask for the name as the question writes it.
            name = title if title in row["question"] else title[0].lower() + title[1:]
            assert name in row["question"], row
            whole = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
            both = {
                other["id"]
                for other in corpus.values()
                if whole.search(other["text"]) and row["answers"][0] in other["text"]
            }
            assert both <= {row["passage_id"]}, (row, both)


def test_demo_has_questions_without_an_answer(questions: list[dict[str, Any]]) -> None:
    unanswerable = [row for row in questions if not row["answerable"]]
    assert len(unanswerable) >= 20
    assert all(row["answers"] == [] and row["passage_id"] is None for row in unanswerable)
    assert len({row["id"] for row in questions}) == len(questions)
