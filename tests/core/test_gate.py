"""Whether a checkpoint may rerank."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.gate import TOP_K, GateStatus, Outcome, Verdict, compare, judge
from service.errors import ConfigError
from service.types import Score

OUTCOMES = st.builds(Outcome, is_retrieved=st.booleans(), is_reranked=st.booleans(), is_findable=st.just(True))
PASSED = Verdict(num_questions=10, num_retrieved=7, num_reranked=8, num_won=2, num_lost=1)
FAILED = Verdict(num_questions=10, num_retrieved=7, num_reranked=6, num_won=1, num_lost=2)


def scores(relevances: Sequence[float | None]) -> list[Score | None]:
    return [None if relevance is None else Score(relevance, 1.0) for relevance in relevances]


def labels(place: int, count: int = 8) -> list[bool]:
    """One relevant passage, at this place from 0."""
    return [index == place for index in range(count)]


@pytest.mark.parametrize(("place", "is_retrieved"), [(0, True), (TOP_K - 1, True), (TOP_K, False)])
def test_equal_scores_change_nothing(place: int, is_retrieved: bool) -> None:
    assert compare(labels(place), scores([0.5] * 8)) == Outcome(is_retrieved, is_retrieved, True)


def test_passage_that_is_lifted_among_the_first_five_is_won() -> None:
    assert compare(labels(7), scores([0.5] * 7 + [0.6])) == Outcome(False, True, True)


def test_passage_that_is_pushed_out_is_lost() -> None:
    assert compare(labels(0), scores([0.1] + [0.5] * 7)) == Outcome(True, False, True)


def test_nothing_relevant_is_nothing_found() -> None:
    assert compare([False] * 8, scores([0.5] * 8)) == Outcome(False, False, False)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=20))
def test_scores_that_are_the_labels_never_lose(pairs: list[tuple[bool, float]]) -> None:
    relevant = [label for label, _ in pairs]
    outcome = compare(relevant, scores([float(label) for label in relevant]))
    assert outcome.is_reranked == outcome.is_findable == any(relevant)
    assert outcome.is_reranked >= outcome.is_retrieved


@given(st.lists(OUTCOMES, min_size=1))
def test_verdict_is_passed_where_at_least_as_many_are_won_as_lost(outcomes: list[Outcome]) -> None:
    verdict = judge(outcomes)
    assert verdict.num_reranked - verdict.num_retrieved == verdict.num_won - verdict.num_lost
    assert verdict.is_passed == (verdict.num_won >= verdict.num_lost)


@given(st.lists(OUTCOMES, min_size=1))
def test_swapped_orders_swap_the_verdict(outcomes: list[Outcome]) -> None:
    swapped = judge([Outcome(one.is_reranked, one.is_retrieved, one.is_findable) for one in outcomes])
    verdict = judge(outcomes)
    assert (swapped.num_won, swapped.num_lost) == (verdict.num_lost, verdict.num_won)
    assert swapped.is_passed or verdict.is_passed


@pytest.mark.parametrize("outcomes", [[], [Outcome(False, False, False)] * 3])
def test_probe_that_would_pass_anything_is_refused(outcomes: list[Outcome]) -> None:
    with pytest.raises(ConfigError, match="proves nothing"):
        judge(outcomes)


@pytest.mark.parametrize(
    ("status", "state", "is_open"),
    [
        (GateStatus(), "unproven", False),
        (GateStatus(PASSED), "passed", True),
        (GateStatus(FAILED), "failed", False),
        (GateStatus(None, is_overridden=True), "unproven", True),
        (GateStatus(FAILED, is_overridden=True), "failed", True),
        (GateStatus(PASSED, is_overridden=True), "passed", True),
    ],
)
def test_only_what_has_passed_may_rerank_unless_overridden(status: GateStatus, state: str, is_open: bool) -> None:
    assert (status.state, status.is_open) == (state, is_open)
    assert f"reranking is {'on' if is_open else 'off'}" in status.text
    assert ("overridden" in status.text) == (status.is_overridden and state != "passed")


def test_text_has_both_figures_and_the_questions() -> None:
    assert FAILED.text == "R@5 0.700 by the retriever, 0.600 after reranking, over 10 questions (1 won, 2 lost)"
