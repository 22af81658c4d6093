"""How the pairs of one request are cut into calls."""

from collections.abc import Iterator, Sequence


def plan_calls(num_tokens: Sequence[int], *, max_prompts: int, max_tokens: int) -> Iterator[slice]:
    """Cut prompts of `num_tokens` into consecutive calls within both limits; an oversized one goes alone.

    Every prompt is in exactly one slice, in order. O(n).
    """
    start = total = 0
    for index, tokens in enumerate(num_tokens):
        is_full = index - start == max_prompts or total + tokens > max_tokens
        if is_full and index > start:
            yield slice(start, index)
            start, total = index, 0
        total += tokens
    if start < len(num_tokens):
        yield slice(start, len(num_tokens))
