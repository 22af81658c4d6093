"""Which prompts go through a model together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.evaluation.batches import by_length

LENGTHS = st.lists(st.integers(1, 50), max_size=40)
BUDGET = st.integers(1, 120)


@given(LENGTHS, BUDGET)
def test_every_prompt_is_in_one_batch(lengths: list[int], budget: int) -> None:
    assert sorted(index for batch in by_length(lengths, budget) for index in batch) == list(range(len(lengths)))


@given(LENGTHS, BUDGET)
def test_padded_batch_is_within_its_budget_unless_it_is_one_prompt(lengths: list[int], budget: int) -> None:
    for batch in by_length(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(LENGTHS, BUDGET)
def test_lengths_only_rise(lengths: list[int], budget: int) -> None:
    order = [lengths[index] for batch in by_length(lengths, budget) for index in batch]
    assert all(one <= other for one, other in pairwise(order))
