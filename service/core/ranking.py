"""Orders: which passages are kept, and where they stand."""

from collections.abc import Sequence

from service.types import RetrievedPassage, Score, ScoredPassage


def order_by_relevance(scores: Sequence[Score]) -> list[int]:
    """Indices by falling relevance; equal scores keep their order. O(n log n)."""
    return sorted(range(len(scores)), key=lambda index: -scores[index].relevance)


def keep_best(retrieved: Sequence[RetrievedPassage], scores: Sequence[Score], top_k: int) -> list[ScoredPassage]:
    """The `top_k` most relevant passages, best first; ties by retrieval rank."""
    order = order_by_relevance(scores)[:top_k]
    return [
        ScoredPassage(retrieved=retrieved[index], score=scores[index], rank=rank)
        for rank, index in enumerate(order, start=1)
    ]


def keep_first(retrieved: Sequence[RetrievedPassage], top_k: int) -> list[ScoredPassage]:
    """The first `top_k` in the retriever's own order, for when reranking had to be skipped."""
    return [
        ScoredPassage(retrieved=passage, score=None, rank=rank)
        for rank, passage in enumerate(retrieved[:top_k], start=1)
    ]
