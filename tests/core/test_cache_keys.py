"""Equal keys must mean equal results."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.cache_keys import CacheKeys, digest, framed
from service.types import Passage, Query, Turn
from tests.filtering import where

KEYS = CacheKeys(checkpoint="checkpoint", prompts="prompts", index="index", encoder="encoder")
PASSAGE = Passage("id", "text", "title", {"kind": "mountain"})
QUERY = Query("question", top_n=20, top_k=5, max_tokens=32, deadline_s=9.0, filters=where({"kind": "mountain"}))


def test_parts_are_kept_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", "b") != digest("ab")
    assert digest("a", "") != digest("a")
    assert digest(1) != digest("1")
    assert digest(1) != digest(True)


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_different_parts_have_different_digests(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_half_of_a_surrogate_pair_still_has_a_digest() -> None:
    assert digest("\ud800") != digest("\udfff")


# Few characters, so that parts are often equal; digits and colons are what the frames are made of.
ALPHABET = st.sampled_from("ab1:\ud800")
TEXTS = st.text(ALPHABET, max_size=4)


@given(st.lists(TEXTS, max_size=4), st.lists(TEXTS, max_size=4))
def test_different_fields_have_different_frames(one: list[str], other: list[str]) -> None:
    assert (framed(*one) == framed(*other)) == (one == other)


def cut_up(text: str, borders: Sequence[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise([0, *borders, len(text)])]


def score_key(checkpoint: str, prompts: str, question: str, title: str, text: str) -> str:
    keys = CacheKeys(checkpoint=checkpoint, prompts=prompts, index="", encoder="")
    return keys.score(question, Passage("", text, title))


@given(st.text(ALPHABET, max_size=8), st.data())
def test_the_same_text_cut_into_other_parts_has_another_key(text: str, data: st.DataObject) -> None:
    borders = st.lists(st.integers(0, len(text)), min_size=4, max_size=4).map(sorted)
    one, other = data.draw(borders), data.draw(borders)
    assert (score_key(*cut_up(text, one)) == score_key(*cut_up(text, other))) == (one == other)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6))
def test_scores_are_the_keys_of_each_pair_in_order(parts: list[tuple[str, str]]) -> None:
    passages = [Passage("", text, title) for title, text in parts]
    assert KEYS.scores("question", passages) == [KEYS.score("question", passage) for passage in passages]


@given(st.tuples(TEXTS, TEXTS), st.tuples(TEXTS, TEXTS))
def test_a_passage_is_its_title_and_text(one: tuple[str, str], other: tuple[str, str]) -> None:
    found = KEYS.passage(Passage("1", one[1], one[0])), KEYS.passage(Passage("2", other[1], other[0], {"a": 1}))
    assert (found[0] == found[1]) == (one == other)


def test_a_passage_is_the_same_in_every_deployment() -> None:
    assert KEYS.passage(PASSAGE) == CacheKeys(checkpoint="", prompts="", index="", encoder="").passage(PASSAGE)


def test_keys_are_digests_of_16_bytes() -> None:
    keys = [KEYS.score("question", PASSAGE), KEYS.passage(PASSAGE), KEYS.answer(QUERY), KEYS.embedding("question")]
    assert [len(bytes.fromhex(key)) for key in keys] == [16] * 4


@pytest.mark.parametrize("part", ["checkpoint", "prompts"])
def test_score_depends_on_the(part: str) -> None:
    assert KEYS.score("question", PASSAGE) != replace(KEYS, **{part: "other"}).score("question", PASSAGE)


@pytest.mark.parametrize("other", [replace(PASSAGE, text="other"), replace(PASSAGE, title="other")])
def test_score_depends_on_the_passages_text_and_title(other: Passage) -> None:
    assert KEYS.score("question", PASSAGE) != KEYS.score("question", other)


def test_score_depends_on_the_question() -> None:
    assert KEYS.score("question", PASSAGE) != KEYS.score("other", PASSAGE)


def test_score_is_shared_by_equal_texts_under_other_ids_and_indexes() -> None:
    shared = replace(KEYS, index="other", encoder="other").score("question", replace(PASSAGE, id="other", metadata={}))
    assert KEYS.score("question", PASSAGE) == shared


@pytest.mark.parametrize("part", ["checkpoint", "prompts", "index", "encoder", "gate"])
def test_answer_depends_on_the_deployments(part: str) -> None:
    assert KEYS.answer(QUERY) != replace(KEYS, **{part: "other"}).answer(QUERY)


@pytest.mark.parametrize("part", ["checkpoint", "prompts", "index", "encoder"])
def test_verdict_depends_on_the_probe_and_the_deployments(part: str) -> None:
    assert KEYS.verdict("probe") != replace(KEYS, **{part: "other"}).verdict("probe")
    assert KEYS.verdict("probe") != KEYS.verdict("other")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("question", "other"),
        ("top_n", 21),
        ("top_k", 6),
        ("max_tokens", 33),
        ("min_relevance", 0.5),
        ("context_order", "edges"),
        ("filters", where({})),
        ("filters", where({"kind": "river"})),
        ("filters", where({"kind": None})),
        ("filters", where({"kind": {"gte": "mountain"}})),
        ("filters", where({"kind": {"lte": "mountain"}})),
        ("filters", where({"or": [{"kind": "mountain"}]})),
        ("filters", where({"not": {"kind": "mountain"}})),
        ("filters", where({"other": "mountain"})),
        ("history", (Turn("user", "before"),)),
        ("passages", ()),
        ("passages", (PASSAGE,)),
    ],
)
def test_answer_depends_on_the_querys(field: str, value: Any) -> None:
    changed: Query = replace(QUERY, **{field: value})
    assert KEYS.answer(QUERY) != KEYS.answer(changed)


@pytest.mark.parametrize(
    "other",
    [
        replace(PASSAGE, id="other"),
        replace(PASSAGE, text="other"),
        replace(PASSAGE, title="other"),
        replace(PASSAGE, metadata={}),
    ],
)
def test_answer_depends_on_all_of_the_passages_that_are_given(other: Passage) -> None:
    query = replace(QUERY, passages=(PASSAGE, PASSAGE))
    assert KEYS.answer(query) != KEYS.answer(replace(query, passages=(PASSAGE, other)))
    assert KEYS.answer(query) == KEYS.answer(replace(query, passages=(PASSAGE, replace(PASSAGE))))


def test_answer_does_not_depend_on_the_deadline_or_the_order_of_filters() -> None:
    one = replace(QUERY, filters=where({"a": 1, "b": 2}), deadline_s=1.0)
    assert KEYS.answer(one) == KEYS.answer(replace(one, filters=where({"b": 2, "a": 1}), deadline_s=2.0))


def test_embedding_depends_on_question_and_encoder() -> None:
    embedding = KEYS.embedding("question")
    assert embedding != KEYS.embedding("other")
    assert embedding != replace(KEYS, encoder="other").embedding("question")


def test_kinds_of_entries_never_share_a_key() -> None:
    keys = CacheKeys(checkpoint="", prompts="", index="", encoder="")
    query = Query("", top_n=1, top_k=1, max_tokens=1, deadline_s=1.0)
    passage = Passage("", "")
    assert len({keys.embedding(""), keys.score("", passage), keys.answer(query), keys.passage(passage)}) == 4
