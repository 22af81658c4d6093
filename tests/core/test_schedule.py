"""The laws of cutting pairs into calls."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.core.schedule import plan_calls

NUM_TOKENS = st.lists(st.integers(1, 500), max_size=60)
MAX_PROMPTS = st.integers(1, 20)
MAX_TOKENS = st.integers(1, 1000)


@given(NUM_TOKENS, MAX_PROMPTS, MAX_TOKENS)
def test_every_prompt_is_in_one_call_in_order(num_tokens: list[int], max_prompts: int, max_tokens: int) -> None:
    calls = plan_calls(num_tokens, max_prompts=max_prompts, max_tokens=max_tokens)
    assert [tokens for call in calls for tokens in num_tokens[call]] == num_tokens


@given(NUM_TOKENS, MAX_PROMPTS, MAX_TOKENS)
def test_calls_stay_within_both_limits_unless_one_prompt_is_alone(
    num_tokens: list[int], max_prompts: int, max_tokens: int
) -> None:
    for call in plan_calls(num_tokens, max_prompts=max_prompts, max_tokens=max_tokens):
        tokens = num_tokens[call]
        assert 1 <= len(tokens) <= max_prompts
        assert sum(tokens) <= max_tokens or len(tokens) == 1


@given(NUM_TOKENS, MAX_PROMPTS, MAX_TOKENS)
def test_no_two_neighbouring_calls_would_fit_in_one(num_tokens: list[int], max_prompts: int, max_tokens: int) -> None:
    calls = list(plan_calls(num_tokens, max_prompts=max_prompts, max_tokens=max_tokens))
    for call, following in pairwise(calls):
        tokens = [*num_tokens[call], num_tokens[following.start]]
        assert len(tokens) > max_prompts or sum(tokens) > max_tokens


def test_oversized_prompt_goes_alone() -> None:
    calls = list(plan_calls([10, 200, 10, 10], max_prompts=8, max_tokens=100))
    assert calls == [slice(0, 1), slice(1, 2), slice(2, 4)]


def test_no_prompts_make_no_calls() -> None:
    assert list(plan_calls([], max_prompts=8, max_tokens=100)) == []
