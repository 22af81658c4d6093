"""Contexts of five that hold the passage asked about."""

from pathlib import Path

import pytest

from service.adapters.passage_store import MetadataTypes, PassageStore, write_passages
from service.errors import ConfigError
from service.evaluation.contexts import CONTEXT_SIZE, GoldPassages, candidates_or_index, gold_contexts, with_gold
from service.types import JudgedQuestion, Passage

GOLD = Passage("gold#1", "It rises to 4,806 metres.")
OTHERS = [Passage(f"p{number}", "other") for number in range(8)]
QUESTION = JudgedQuestion("q", "How high?", ("4,806 metres",), {"gold": 1}, about="gold")
PASSAGES = [Passage("gold#0", "It is a mountain."), GOLD, Passage("other", "It is a river.")]


@pytest.fixture
def gold(tmp_path: Path) -> GoldPassages:
    write_passages(tmp_path / "passages.arrow", PASSAGES, MetadataTypes())
    return GoldPassages(PassageStore(tmp_path / "passages.arrow"))


def test_context_is_the_gold_passage_and_the_four_best_others() -> None:
    context = with_gold(QUESTION, GOLD, [Passage("gold#0", "a part"), *OTHERS], seed=1)
    assert sorted(passage.id for passage in context) == ["gold#1", "p0", "p1", "p2", "p3"]


def test_gold_passage_that_was_retrieved_comes_once() -> None:
    assert len(with_gold(QUESTION, GOLD, [OTHERS[0], GOLD, *OTHERS[1:]], seed=1)) == CONTEXT_SIZE


def test_place_of_the_gold_passage_depends_on_question_and_seed() -> None:
    keys = [(JudgedQuestion(f"q{number}", "q", about="gold"), seed) for number in range(10) for seed in (1, 2)]
    places = [with_gold(question, GOLD, OTHERS, seed).index(GOLD) for question, seed in keys]
    assert set(places) == set(range(CONTEXT_SIZE))
    assert places == [with_gold(question, GOLD, OTHERS, seed).index(GOLD) for question, seed in keys]


def test_part_with_the_answer_is_the_gold_passage(gold: GoldPassages) -> None:
    assert gold.find(QUESTION).id == "gold#1"


def test_question_without_an_answer_is_about_the_first_part(gold: GoldPassages) -> None:
    assert gold.find(JudgedQuestion("q", "Why?", (), about="gold")).id == "gold#0"


@pytest.mark.parametrize("about", ["gold#1", "none", None])
def test_passage_that_the_index_lacks_is_named(gold: GoldPassages, about: str | None) -> None:
    with pytest.raises(ConfigError, match="the index lacks"):
        gold.find(JudgedQuestion("q", "Why?", about=about))


async def test_candidates_make_a_context_without_an_index() -> None:
    question = JudgedQuestion("q", "q", None, {"p7": 1}, tuple(OTHERS), "p7")
    context = await gold_contexts(None, seed=1)(question)
    assert context is not None
    assert sorted(passage.id for passage in context) == ["p0", "p1", "p2", "p3", "p7"]


async def test_question_without_candidates_needs_an_index() -> None:
    with pytest.raises(ConfigError, match="needs --index"):
        await gold_contexts(None, seed=1)(QUESTION)


async def test_what_was_retrieved_is_the_targets_own_affair() -> None:
    assert await candidates_or_index(QUESTION) is None
    question = JudgedQuestion("q", "q", candidates=tuple(OTHERS))
    assert await candidates_or_index(question) == tuple(OTHERS)
