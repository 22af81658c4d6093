"""Orders of passages."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.core.ranking import keep_best, keep_first, order_by_relevance
from service.types import Passage, RetrievedPassage, Score

RELEVANCES = st.lists(st.floats(0, 1), max_size=30)
TOP_K = st.integers(1, 40)


def retrieved(count: int) -> list[RetrievedPassage]:
    return [RetrievedPassage(Passage(str(rank), "text"), 1 / rank, rank) for rank in range(1, count + 1)]


def scores(relevances: list[float]) -> list[Score]:
    return [Score(relevance, 1.0) for relevance in relevances]


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
