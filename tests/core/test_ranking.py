"""Orders of passages."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.ranking import best_of_parts, is_part_of, keep_best, keep_first, order_by_relevance, order_context
from service.types import ContextOrder, Passage, RetrievedPassage, Score, ScoredPassage

MAYBE_RELEVANCES = st.lists(st.none() | st.sampled_from([0.0, 0.3, 0.5, 1.0]) | st.floats(0, 1), max_size=30)
RELEVANCES = st.lists(st.floats(0, 1), max_size=30)
TOP_K = st.integers(1, 40)


def retrieved(count: int) -> list[RetrievedPassage]:
    return [RetrievedPassage(Passage(str(rank), "text"), 1 / rank, rank) for rank in range(1, count + 1)]


def scores(relevances: Sequence[float | None]) -> list[Score | None]:
    return [None if relevance is None else Score(relevance, 1.0) for relevance in relevances]


def places(kept: Sequence[ScoredPassage]) -> list[int]:
    """Positions in the retriever's order, from 0."""
    return [passage.retrieved.retrieval_rank - 1 for passage in kept]


@given(RELEVANCES)
def test_order_is_falling_and_every_index_once(relevances: list[float]) -> None:
    order = order_by_relevance(scores(relevances))
    assert sorted(order) == list(range(len(relevances)))
    assert [relevances[index] for index in order] == sorted(relevances, reverse=True)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=30))
def test_equal_scores_keep_their_order(relevances: list[float]) -> None:
    order = order_by_relevance(scores(relevances))
    ties = [(a, b) for a, b in pairwise(order) if relevances[a] == relevances[b]]
    assert all(a < b for a, b in ties)


@given(st.integers(0, 30), st.floats(0, 1), TOP_K)
def test_constant_scores_keep_the_retrievers_order(count: int, relevance: float, top_k: int) -> None:
    kept = keep_best(retrieved(count), scores([relevance] * count), top_k)
    assert [passage.retrieved.retrieval_rank for passage in kept] == list(range(1, min(count, top_k) + 1))


@given(st.lists(st.booleans(), min_size=1, max_size=50).filter(any))
def test_scores_that_are_the_labels_give_reciprocal_rank_1(labels: list[bool]) -> None:
    kept = keep_best(retrieved(len(labels)), scores([float(label) for label in labels]), len(labels))
    ranks = [passage.rank for passage in kept if labels[passage.retrieved.retrieval_rank - 1]]
    assert 1 / min(ranks) == 1.0
    assert sorted(ranks) == list(range(1, sum(labels) + 1))


@given(RELEVANCES, TOP_K)
def test_what_is_kept_is_no_worse_than_what_is_left(relevances: list[float], top_k: int) -> None:
    kept = keep_best(retrieved(len(relevances)), scores(relevances), top_k)
    places = {passage.retrieved.retrieval_rank - 1 for passage in kept}
    left = [relevance for place, relevance in enumerate(relevances) if place not in places]
    assert len(kept) == min(top_k, len(relevances))
    assert not kept or not left or min(relevances[place] for place in places) >= max(left)


@given(RELEVANCES, TOP_K)
def test_kept_passages_carry_their_own_score_and_rank(relevances: list[float], top_k: int) -> None:
    kept = keep_best(retrieved(len(relevances)), scores(relevances), top_k)
    assert [passage.rank for passage in kept] == list(range(1, len(kept) + 1))
    assert all(p.score == Score(relevances[p.retrieved.retrieval_rank - 1], 1.0) for p in kept)


@given(st.integers(0, 30), TOP_K)
def test_keeping_the_first_has_no_scores_and_the_retrievers_order(count: int, top_k: int) -> None:
    kept = keep_first(retrieved(count), top_k)
    assert [passage.retrieved for passage in kept] == retrieved(count)[:top_k]
    assert [passage.rank for passage in kept] == list(range(1, len(kept) + 1))
    assert all(passage.score is None for passage in kept)


@given(RELEVANCES.filter(bool), TOP_K, st.floats(0, 1))
def test_the_context_holds_what_is_relevant_enough_or_else_everything(
    relevances: list[float], top_k: int, least: float
) -> None:
    kept = keep_best(retrieved(len(relevances)), scores(relevances), top_k, least)
    enough = [passage for passage in kept if passage.score and passage.score.relevance >= least]
    assert [passage for passage in kept if passage.is_in_context] == (enough or kept)


def test_without_scores_everything_is_in_the_context() -> None:
    assert all(passage.is_in_context for passage in keep_first(retrieved(5), 3))


@given(MAYBE_RELEVANCES)
def test_order_leaves_out_what_has_no_score(relevances: list[float | None]) -> None:
    order = order_by_relevance(scores(relevances))
    scored = [(index, relevance) for index, relevance in enumerate(relevances) if relevance is not None]
    assert order == [index for index, relevance in sorted(scored, key=lambda pair: (-pair[1], pair[0]))]


@given(MAYBE_RELEVANCES, TOP_K, st.floats(0, 1), st.booleans())
def test_whatever_has_a_score_the_first_top_k_are_kept_once_each_with_rank_and_score(
    relevances: list[float | None], top_k: int, least: float, is_partial: bool
) -> None:
    kept = keep_best(retrieved(len(relevances)), scores(relevances), top_k, least, is_partial=is_partial)
    assert len(kept) == len(set(places(kept))) == min(top_k, len(relevances))
    assert [passage.rank for passage in kept] == list(range(1, len(kept) + 1))
    assert [passage.score for passage in kept] == [scores(relevances)[place] for place in places(kept)]
    longer = keep_best(retrieved(len(relevances)), scores(relevances), top_k + 1, least, is_partial=is_partial)
    assert longer[: len(kept)] == kept


@given(MAYBE_RELEVANCES, st.floats(0, 1), st.booleans())
def test_groups_stand_in_their_order_and_each_in_its_own(
    relevances: list[float | None], least: float, is_partial: bool
) -> None:
    def standing(place: int) -> tuple[int, float, int]:
        """Sort key of a passage: its group, then falling relevance, then the retriever's order."""
        relevance = relevances[place]
        if relevance is None:
            return (1 if is_partial else 2), 0.0, place
        return (2 if is_partial and relevance < least else 0), -relevance, place

    kept = keep_best(retrieved(len(relevances)), scores(relevances), len(relevances), least, is_partial=is_partial)
    assert places(kept) == sorted(range(len(relevances)), key=standing)


@given(st.integers(0, 30), TOP_K, st.floats(0, 1), st.booleans())
def test_without_any_score_the_first_are_kept(count: int, top_k: int, least: float, is_partial: bool) -> None:
    kept = keep_best(retrieved(count), [None] * count, top_k, least, is_partial=is_partial)
    assert kept == keep_first(retrieved(count), top_k)


@given(MAYBE_RELEVANCES, TOP_K, st.floats(0, 1), st.booleans())
def test_context_has_what_may_be_relevant_only_where_time_ran_out(
    relevances: list[float | None], top_k: int, least: float, is_partial: bool
) -> None:
    kept = keep_best(retrieved(len(relevances)), scores(relevances), top_k, least, is_partial=is_partial)
    is_sure = any(relevance is not None and relevance >= least for relevance in relevances)
    for passage in kept:
        enough = is_partial if passage.score is None else passage.score.relevance >= least
        assert passage.is_in_context is (enough or not is_sure)


def test_time_that_ran_out_puts_the_unknown_between_the_good_and_the_bad() -> None:
    found = scores([0.1, None, 0.9, None, 0.02])
    assert places(keep_best(retrieved(5), found, 5, 0.5, is_partial=True)) == [2, 1, 3, 0, 4]
    assert places(keep_best(retrieved(5), found, 5, 0.5)) == [2, 0, 4, 1, 3]


@pytest.mark.parametrize(
    ("passage_id", "expected"),
    [("a", True), ("a#0", True), ("a#12", True), ("ab", False), ("ab#0", False), ("#0", False)],
)
def test_part_of_a_document_carries_its_id(passage_id: str, expected: bool) -> None:
    assert is_part_of(passage_id, "a") is expected


def test_a_document_is_as_relevant_as_its_best_part() -> None:
    known = [Score(0.1, 0.9), Score(0.8, 0.5), Score(0.3, 0.9), None, Score(0.2, 0.7), None, None]
    found = best_of_parts(known, [3, 2, 1, 1])
    assert found == [Score(0.8, 0.5), Score(0.2, 0.7), None, None]


def test_whole_documents_keep_their_scores() -> None:
    known = [Score(0.1, 0.9), None, Score(0.3, 0.9)]
    assert best_of_parts(known, [1, 1, 1]) == known


@pytest.mark.parametrize(
    ("order", "ranks"), [("rank", [1, 2, 3, 4, 5]), ("reverse", [5, 4, 3, 2, 1]), ("edges", [1, 3, 5, 4, 2])]
)
def test_context_order(order: ContextOrder, ranks: list[int]) -> None:
    assert [kept.rank for kept in order_context(keep_first(retrieved(5), 5), order)] == ranks


@given(st.integers(0, 20), st.sampled_from(["rank", "reverse", "edges"]))
def test_context_holds_every_passage_once_in_any_order(count: int, order: ContextOrder) -> None:
    kept = keep_first(retrieved(count), 20)
    assert sorted(order_context(kept, order), key=lambda one: one.rank) == kept
