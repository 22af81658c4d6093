"""When scoring may stop."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.early_exit import (
    MAX_ODDS,
    MIN_WAVE,
    EarlyExit,
    ExitRule,
    chance_left,
    evidence,
    exit_rule,
    rank_priors,
)
from service.types import Score

MODES: tuple[EarlyExit, ...] = ("off", "on", "aggressive")
EARLY: tuple[EarlyExit, ...] = ("on", "aggressive")
RELEVANCES = st.lists(st.floats(0, 1), max_size=60)
TOP_K = st.integers(1, 70)
STOPS = st.lists(st.floats(0, 1), max_size=4).map(sorted).map(tuple)
RULES = st.sampled_from([exit_rule(mode) for mode in MODES]) | st.builds(ExitRule, STOPS, st.floats(0, 1))


def as_scores(relevances: Sequence[float | None]) -> list[Score | None]:
    return [None if relevance is None else Score(relevance, 1.0) for relevance in relevances]


def waves(
    rule: ExitRule, relevances: Sequence[float], *, top_k: int, known: Sequence[int] = ()
) -> list[Sequence[int]]:  # fmt: skip
    """What is scored, wave by wave, as the scorer does it; `known` are the indices that the cache has."""
    scores: list[Score | None] = [None] * len(relevances)
    found: list[Sequence[int]] = []
    for index in known:
        scores[index] = Score(relevances[index], 1.0)
    while wave := rule.next_wave(scores, top_k=top_k):
        assert list(wave) == sorted(set(wave))
        assert all(scores[index] is None for index in wave), "asked again for what is known"
        found.append(wave)
        for index in wave:
            scores[index] = Score(relevances[index], 1.0)
    return found


def num_scored(found: Sequence[Sequence[int]]) -> int:
    return sum(len(wave) for wave in found)


@given(RULES, RELEVANCES, TOP_K, st.data())
def test_every_pair_is_scored_at_most_once_in_order_and_at_least_as_many_as_are_kept(
    rule: ExitRule, relevances: list[float], top_k: int, data: st.DataObject
) -> None:
    known = data.draw(st.sets(st.integers(0, len(relevances) - 1))) if relevances else set()
    scored = [index for wave in waves(rule, relevances, top_k=top_k, known=sorted(known)) for index in wave]
    assert scored == sorted(set(scored) - known)
    assert len(scored) + len(known) >= min(top_k, len(relevances))


@given(RULES, RELEVANCES, TOP_K)
def test_what_is_scored_are_the_first_of_the_retriever(rule: ExitRule, relevances: list[float], top_k: int) -> None:
    scored = [index for wave in waves(rule, relevances, top_k=top_k) for index in wave]
    assert scored == list(range(len(scored)))


@given(st.sampled_from(EARLY), RELEVANCES, TOP_K)
def test_waves_are_few_and_none_is_small(mode: EarlyExit, relevances: list[float], top_k: int) -> None:
    found = waves(exit_rule(mode), relevances, top_k=top_k)
    assert len(found) <= 3
    assert len(found) <= 1 or min(len(wave) for wave in found) >= MIN_WAVE


@given(RELEVANCES, TOP_K, st.data())
def test_off_scores_all_that_is_unknown_in_one_wave(relevances: list[float], top_k: int, data: st.DataObject) -> None:
    known = data.draw(st.sets(st.integers(0, len(relevances) - 1))) if relevances else set()
    rest = [index for index in range(len(relevances)) if index not in known]
    assert waves(exit_rule("off"), relevances, top_k=top_k, known=sorted(known)) == ([rest] if rest else [])


@given(st.sampled_from(MODES), RELEVANCES)
def test_everything_is_scored_where_all_are_wanted(mode: EarlyExit, relevances: list[float]) -> None:
    found = waves(exit_rule(mode), relevances, top_k=len(relevances))
    assert len(found) == min(len(relevances), 1)
    assert num_scored(found) == len(relevances)


@given(RULES, st.lists(st.floats(0, 0.5), max_size=60), TOP_K)
def test_everything_is_scored_where_nothing_looks_relevant(
    rule: ExitRule, relevances: list[float], top_k: int
) -> None:  # fmt: skip
    assert num_scored(waves(rule, relevances, top_k=top_k)) == len(relevances)


@pytest.mark.parametrize("mode", EARLY)
def test_a_sure_first_passage_settles_in_the_first_wave(mode: EarlyExit) -> None:
    relevances = [0.99, *[0.05] * 19]
    assert [len(wave) for wave in waves(exit_rule(mode), relevances, top_k=5)] == [6]


@pytest.mark.parametrize("mode", EARLY)
def test_a_sure_passage_in_the_second_wave_settles_there(mode: EarlyExit) -> None:
    relevances = [*[0.01] * 6, 0.9999, *[0.01] * 13]
    assert [len(wave) for wave in waves(exit_rule(mode), relevances, top_k=5)] == [6, 6]


def test_a_passage_must_be_surer_the_later_it_stands() -> None:
    early = [0.95, *[0.05] * 19]
    late = [*[0.05] * 5, 0.95, *[0.05] * 14]
    assert num_scored(waves(exit_rule("on"), early, top_k=5)) < num_scored(waves(exit_rule("on"), late, top_k=5))


def test_few_passages_are_one_wave() -> None:
    for count in range(2 * MIN_WAVE):
        assert len(waves(exit_rule("aggressive"), [0.999] * count, top_k=1)) == min(count, 1)


@given(st.sampled_from(EARLY), RELEVANCES, TOP_K)
def test_known_scores_that_settle_it_leave_nothing_to_score(
    mode: EarlyExit, relevances: list[float], top_k: int
) -> None:
    rule = exit_rule(mode)
    scored = [index for wave in waves(rule, relevances, top_k=top_k) for index in wave]
    assert waves(rule, relevances, top_k=top_k, known=scored) == []


def test_a_known_score_far_behind_settles_too() -> None:
    relevances = [*[0.05] * 19, 0.999999]
    cold = waves(exit_rule("on"), relevances, top_k=5)
    warm = waves(exit_rule("on"), relevances, top_k=5, known=[19])
    assert (num_scored(cold), num_scored(warm)) == (20, 6)


@given(RULES, st.lists(st.floats(0, 1), min_size=1, max_size=60), TOP_K, st.data())
def test_a_higher_score_never_makes_for_more_scoring(
    rule: ExitRule, relevances: list[float], top_k: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(relevances) - 1))
    raised = [*relevances]
    raised[index] = data.draw(st.floats(relevances[index], 1))
    assert num_scored(waves(rule, raised, top_k=top_k)) <= num_scored(waves(rule, relevances, top_k=top_k))


@given(RELEVANCES, TOP_K)
def test_aggressive_never_scores_more_than_on(relevances: list[float], top_k: int) -> None:
    on, aggressive = (num_scored(waves(exit_rule(mode), relevances, top_k=top_k)) for mode in EARLY)
    assert aggressive <= on


@given(st.lists(st.none() | st.floats(0, 1), max_size=60))
def test_the_chance_left_is_a_probability_and_nothing_only_when_all_are_scored(
    relevances: list[float | None],
) -> None:
    chance = chance_left(as_scores(relevances))
    assert 0 <= chance <= 1
    assert (chance == 0) == (None not in relevances)


def test_before_any_score_the_whole_chance_is_left() -> None:
    assert chance_left([None] * 20) == 1.0


def test_scores_that_say_nothing_leave_the_prior() -> None:
    scores = as_scores([*[0.5] * 6, *[None] * 14])
    assert chance_left(scores) == pytest.approx(sum(rank_priors(20)[6:]))


@given(st.integers(1, 300))
def test_priors_fall_and_sum_to_one(num_passages: int) -> None:
    priors = rank_priors(num_passages)
    assert math.isclose(sum(priors), 1.0)
    assert priors == sorted(priors, reverse=True)


@given(st.floats(0, 1), st.floats(0, 1))
def test_evidence_rises_with_relevance_and_has_an_end(a: float, b: float) -> None:
    low, high = sorted([a, b])
    assert 0 <= evidence(Score(low, 1.0)) <= evidence(Score(high, 1.0)) <= MAX_ODDS
    assert evidence(Score(0.5, 1.0)) == 1.0
