"""What is asked, and when."""

import random
from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.traffic import (
    Deck,
    Traffic,
    Zipf,
    in_parts,
    num_blocks,
    num_within,
    poisson_moments,
    rotated,
    with_at_most,
)
from service.types import Passage


def traffic(num_passages: int = 50, num_questions: int = 40) -> Traffic:
    passages = [Passage(str(number), f"text {number}") for number in range(num_passages)]
    return Traffic(passages, [f"question {number}?" for number in range(num_questions)], random.Random(3))


@given(st.integers(1, 20), st.integers(1, 3))
def test_a_deck_gives_everything_once_before_anything_twice(num_items: int, times: int) -> None:
    deck = Deck(range(num_items), random.Random(0))
    drawn = [deck.draw() for _ in range(num_items * times)]
    assert all(sorted(part) == list(range(num_items)) for part in in_parts(drawn, num_items))


def test_zipf_draws_a_rank_in_inverse_proportion_to_it() -> None:
    zipf, num_draws = Zipf(1000, 1.0, random.Random(5)), 60_000
    counts = Counter(zipf.draw() for _ in range(num_draws))
    assert min(counts) == 0
    assert max(counts) < 1000
    for rank in (1, 2, 4, 9):
        assert counts[0] / counts[rank] == pytest.approx(rank + 1, rel=0.15)
    assert counts[0] / num_draws == pytest.approx(zipf.share_of_head(1), rel=0.05)
    assert zipf.share_of_head(0) == 0
    assert zipf.share_of_head(1000) == 1


def test_zipf_without_repeats_reaches_every_rank() -> None:
    assert sorted(islice(Zipf(12, 1.0, random.Random(1)).distinct(), 12)) == list(range(12))


def test_unique_requests_share_neither_passage_nor_question() -> None:
    requests = traffic().unique(5, 10)
    ids = [passage.id for request in requests for passage in request.passages]
    assert len(set(ids)) == 50
    assert len({request.question for request in requests}) == 5


def test_repeated_passages_repeat_between_requests_and_not_within_one() -> None:
    requests = traffic().repeated_passages(30, 10)
    assert all(len({passage.id for passage in request.passages}) == 10 for request in requests)
    assert len({request.question for request in requests}) == 30
    assert len({passage.id for request in requests for passage in request.passages}) <= 50


def test_the_head_ends_with_the_most_frequent_passage() -> None:
    asked = traffic()
    head = [passage for request in asked.head(7, 3) for passage in request.passages]
    assert head == list(asked.by_rank[:7])[::-1]


def test_smaller_requests_hold_the_same_pairs_in_order() -> None:
    requests = traffic().unique(3, 10)
    smaller = with_at_most(requests, 4)
    assert [len(request.passages) for request in smaller] == [4, 4, 2] * 3
    assert [(one.question, passage) for one in smaller for passage in one.passages] == [
        (one.question, passage) for one in requests for passage in one.passages
    ]


def test_rotation_puts_everyone_first_once() -> None:
    assert [rotated("abc", number)[0] for number in range(4)] == list("abca")
    assert sorted(rotated("abc", 2)) == list("abc")


@given(st.floats(0.5, 50), st.integers(0, 1000))
def test_arrivals_rise_within_the_time_and_follow_the_seed(rate: float, seed: int) -> None:
    moments = poisson_moments(rate, 10.0, random.Random(seed))
    assert all(0 < moment < 10 for moment in moments)
    assert all(before < after for before, after in pairwise(moments))
    assert moments == poisson_moments(rate, 10.0, random.Random(seed))


def test_arrivals_have_the_rate_and_the_irregularity_of_a_poisson_process() -> None:
    moments = poisson_moments(20.0, 500.0, random.Random(11))
    per_second = Counter(int(moment) for moment in moments)
    counts = [per_second[second] for second in range(500)]
    mean = sum(counts) / 500
    variance = sum((count - mean) ** 2 for count in counts) / 500
    assert mean == pytest.approx(20, rel=0.03)
    assert variance == pytest.approx(20, rel=0.2)


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(0, 60))
def test_as_many_as_fit_and_not_one_more(sizes: list[int], budget: int) -> None:
    count = num_within(sizes, budget)
    assert sum(sizes[:count]) <= budget
    assert count == len(sizes) or sum(sizes[: count + 1]) > budget


def test_a_begun_block_is_a_block() -> None:
    assert [num_blocks(tokens, 32) for tokens in (0, 1, 32, 33, 64)] == [0, 1, 1, 2, 2]
