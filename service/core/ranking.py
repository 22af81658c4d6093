"""Orders: which passages are kept, and where they stand."""

from collections.abc import Sequence
from itertools import islice

from service.types import ContextOrder, RetrievedPassage, Score, ScoredPassage


def order_by_relevance(scores: Sequence[Score | None]) -> list[int]:
    """Indices of what has a score, by falling relevance; equal scores keep their order. O(n log n)."""
    scored = [(-score.relevance, index) for index, score in enumerate(scores) if score is not None]
    return [index for _, index in sorted(scored)]


def best_of_parts(scores: Sequence[Score | None], parts: Sequence[int]) -> list[Score | None]:
    """The best score of each document's parts, which are `parts[i]` successive ones of `scores`; None if none has any.

    The score of a part is a lower bound of its document's, so that one that has no score yet changes no other.
    """
    remaining = iter(scores)
    found = [[score for score in islice(remaining, num_parts) if score is not None] for num_parts in parts]
    return [max(known, key=lambda score: score.relevance, default=None) for known in found]


def is_part_of(passage_id: str, document_id: str) -> bool:
    """Whether the passage is the document, or was cut out of it."""
    return passage_id == document_id or passage_id.startswith(f"{document_id}#")


def keep_best(
    retrieved: Sequence[RetrievedPassage], scores: Sequence[Score | None], top_k: int, min_relevance: float = 0.0, *,
    is_partial: bool = False,
) -> list[ScoredPassage]:  # fmt: skip
    """The `top_k` most relevant passages, best first; ties by retrieval rank.

    Those under `min_relevance` stay out of the answer's context, where they would only distract. If none
    reaches it, the ranking is unsure and all are in.

    Where a score is None, the scores of the others say what that means. As a rule they had settled the best,
    and so the rest stands last, in the retriever's order and out of the context. If the ranking `is_partial`
    they had not: then what has no score stands, in the retriever's order, behind what is known to be relevant
    enough and before what is known not to be, and it is in the context.
    """
    order = order_by_relevance(scores)
    num_relevant = sum(score is not None and score.relevance >= min_relevance for score in scores)
    relevant, other = order[:num_relevant], order[num_relevant:]
    unscored = [index for index, score in enumerate(scores) if score is None]
    ranking = [*relevant, *unscored, *other] if is_partial else [*relevant, *other, *unscored]
    in_context = {*relevant, *unscored} if is_partial else set(relevant)
    return [
        ScoredPassage(
            retrieved=retrieved[index], score=scores[index], rank=rank,
            is_in_context=index in in_context or not relevant,
        )
        for rank, index in enumerate(ranking[:top_k], start=1)
    ]  # fmt: skip


def order_context(kept: Sequence[ScoredPassage], order: ContextOrder) -> list[ScoredPassage]:
    """As they shall stand in the prompt; `kept` is best first.

    Models use the beginning and the end of a long context better than its middle (Liu et al. 2023, Lost in the
    Middle): `edges` has the odd ranks falling from the front, the even ones from the back.
    """
    match order:
        case "rank":
            return list(kept)
        case "reverse":
            return list(kept[::-1])
        case "edges":
            return [*kept[::2], *kept[1::2][::-1]]


def keep_first(retrieved: Sequence[RetrievedPassage], top_k: int) -> list[ScoredPassage]:
    """The first `top_k` in the retriever's own order, for when reranking had to be skipped."""
    return [
        ScoredPassage(retrieved=passage, score=None, rank=rank)
        for rank, passage in enumerate(retrieved[:top_k], start=1)
    ]
