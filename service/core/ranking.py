"""Orders: which passages are kept, and where they stand."""

from collections.abc import Sequence

from service.types import RetrievedPassage, Score, ScoredPassage


def order_by_relevance(scores: Sequence[Score]) -> list[int]:
    """Indices by falling relevance; equal scores keep their order. O(n log n)."""
    return sorted(range(len(scores)), key=lambda index: -scores[index].relevance)


def keep_best(
    retrieved: Sequence[RetrievedPassage], scores: Sequence[Score], top_k: int, min_relevance: float = 0.0
) -> list[ScoredPassage]:
    """The `top_k` most relevant passages, best first; ties by retrieval rank.

    Those under `min_relevance` stay out of the answer's context, where they would only distract. If none
    reaches it, the ranking is unsure and all are in.
    """
    order = order_by_relevance(scores)[:top_k]
    is_sure = any(scores[index].relevance >= min_relevance for index in order)
    return [
        ScoredPassage(
            retrieved=retrieved[index], score=scores[index], rank=rank,
            is_in_context=not is_sure or scores[index].relevance >= min_relevance,
        )
        for rank, index in enumerate(order, start=1)
    ]  # fmt: skip


def keep_first(retrieved: Sequence[RetrievedPassage], top_k: int) -> list[ScoredPassage]:
    """The first `top_k` in the retriever's own order, for when reranking had to be skipped."""
    return [
        ScoredPassage(retrieved=passage, score=None, rank=rank)
        for rank, passage in enumerate(retrieved[:top_k], start=1)
    ]
