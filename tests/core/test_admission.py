"""Requests are refused only when they could not be done in time, and told when they could."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.core.admission import Admission, DrainRate, TokenEstimate
from service.errors import OverloadedError

RATES = st.floats(100, 500_000)


def run_saturated(rate: DrainRate, calls: list[int], tokens_per_s: float, begun_s: float, *, burst: int = 1) -> float:
    """Engines that finish `burst` calls at once, 1 µs apart, after the time that they take together; its end."""
    now_s = begun_s
    for first in range(0, len(calls), burst):
        together = calls[first : first + burst]
        now_s += sum(together) / tokens_per_s
        for number, num_tokens in enumerate(together):
            rate.observe(num_tokens, now_s + number * 1e-6, is_saturated=True)
    return now_s


def known(rate: DrainRate) -> float:
    assert rate.per_s is not None
    return rate.per_s


def rate_of(tokens_per_s: float) -> DrainRate:
    rate = DrainRate()
    rate.resume(0.0)
    rate.observe(int(tokens_per_s * 10), 10.0, is_saturated=True)
    return rate


@given(RATES, st.lists(st.integers(50, 8192), min_size=30, max_size=60), st.integers(1, 8))
def test_steady_saturated_flow_shows_the_true_rate(tokens_per_s: float, calls: list[int], burst: int) -> None:
    assume(sum(calls) / tokens_per_s > 0.1)
    rate = DrainRate()
    rate.resume(5.0)
    run_saturated(rate, calls, tokens_per_s, 5.0, burst=burst)
    assert known(rate) == pytest.approx(tokens_per_s, rel=0.1)


@given(RATES, st.floats(0.2, 5), st.integers(1, 8))
def test_rate_follows_a_change_in_both_directions(tokens_per_s: float, factor: float, burst: int) -> None:
    rate = DrainRate()
    rate.resume(0.0)
    num_tokens = max(int(tokens_per_s * 0.02), 1)
    now_s = run_saturated(rate, [num_tokens] * 200, tokens_per_s, 0.0, burst=burst)
    changed = tokens_per_s * factor
    run_saturated(rate, [num_tokens] * int(14 * changed / num_tokens), changed, now_s, burst=burst)
    assert known(rate) == pytest.approx(changed, rel=0.1)


@given(st.integers(1, 64), st.floats(0, 1e-3))
def test_calls_that_finish_at_once_show_no_rate_of_their_own(num_calls: int, apart_s: float) -> None:
    assume(num_calls * apart_s < 0.04)
    rate = DrainRate()
    rate.resume(0.0)
    for number in range(num_calls):
        rate.observe(8192, number * apart_s, is_saturated=True)
    assert rate.per_s is None


@given(st.integers(2, 32))
def test_a_burst_counts_over_the_time_that_it_took(num_calls: int) -> None:
    rate = DrainRate()
    rate.resume(0.0)
    run_saturated(rate, [1000] * num_calls, 1000 * num_calls / 0.5, 0.0, burst=num_calls)
    assert known(rate) == pytest.approx(2000 * num_calls, rel=0.01)


def test_nothing_is_known_at_first_or_of_engines_that_never_had_enough_to_do() -> None:
    rate = DrainRate()
    assert rate.per_s is None
    rate.observe(1000, 10.0, is_saturated=True)  # since when, nobody knows
    assert rate.per_s is None
    rate.observe(1000, 11.0, is_saturated=False)
    assert rate.per_s is None
    rate.observe(0, 12.0, is_saturated=True)
    assert rate.per_s is None


@given(st.lists(st.tuples(st.integers(0, 8192), st.floats(0, 3), st.booleans()), max_size=30))
def test_engines_without_enough_to_do_never_lower_the_rate(seen: list[tuple[int, float, bool]]) -> None:
    rate, now_s, rates = rate_of(1000.0), 10.0, [1000.0]
    for num_tokens, later_s, is_resumed in seen:
        if is_resumed:
            rate.resume(now_s + later_s)
        now_s += 2 * later_s
        rate.observe(num_tokens, now_s, is_saturated=False)
        rates.append(known(rate))
    assert all(one <= next_one for one, next_one in pairwise(rates))


@given(RATES, st.lists(st.tuples(st.integers(1, 8192), st.floats(0, 2), st.floats(0, 10)), min_size=1, max_size=30))
def test_engines_without_enough_to_do_never_show_more_than_they_can(
    tokens_per_s: float, calls: list[tuple[int, float, float]]
) -> None:
    rate, now_s = rate_of(tokens_per_s / 2), 10.0
    for num_tokens, overhead_s, idle_s in calls:
        rate.resume(now_s)
        now_s += num_tokens / tokens_per_s + overhead_s
        rate.observe(num_tokens, now_s, is_saturated=False)
        now_s += idle_s
    assert known(rate) <= tokens_per_s * 1.001


def test_engines_that_do_more_than_was_known_raise_the_rate_without_being_full() -> None:
    rate = rate_of(1000.0)
    for number in range(20):  # each too short to say anything alone
        rate.resume(20.0 + number)
        rate.observe(100, 20.01 + number, is_saturated=False)
    assert known(rate) == pytest.approx(10_000, rel=0.01)


def test_a_call_begun_under_load_does_not_prove_a_high_rate_when_it_ends_after_the_load() -> None:
    """Two calls side by side take 8 s; the second ends 0.1 s after the first, when nothing waits any more."""
    rate = DrainRate()
    rate.resume(0.0)
    rate.observe(8000, 8.0, is_saturated=True)
    rate.observe(8000, 8.1, is_saturated=False)
    assert known(rate) <= 16_000 / 8.1 * 1.001


def test_what_was_given_up_says_nothing_of_the_rate() -> None:
    rate = rate_of(1000.0)
    rate.skip(1000.0)
    rate.observe(1000, 1001.0, is_saturated=True)
    assert known(rate) == pytest.approx(1000.0)
    rate.skip(2000.0)  # what was under way then was begun before it: it proves nothing
    rate.observe(1000, 2000.04, is_saturated=False)
    assert known(rate) == pytest.approx(1000.0)


def test_time_without_work_does_not_count() -> None:
    rate = rate_of(1000.0)
    rate.resume(1000.0)
    rate.observe(1000, 1001.0, is_saturated=True)
    assert known(rate) == pytest.approx(1000.0)


def test_a_clock_that_stands_still_or_goes_back_is_no_error() -> None:
    rate = rate_of(1000.0)
    rate.observe(0, 9.0, is_saturated=True)
    rate.observe(0, 9.0, is_saturated=False)
    assert known(rate) == pytest.approx(1000.0)


TOKENS = st.integers(0, 10_000_000)
KNOWN_RATES = st.none() | st.floats(0.1, 1e6)
TIMES = st.floats(-10, 600)


def retry_after_s(admission: Admission, *, amount: int, ahead: int, per_s: float | None, time_left_s: float) -> int:
    """What a refusal says; 0 where the request is let in."""
    try:
        admission.check(amount=amount, ahead=ahead, per_s=per_s, time_left_s=time_left_s)
    except OverloadedError as exc:
        assert exc.retry_after_s is not None
        return exc.retry_after_s
    return 0


@given(TOKENS, KNOWN_RATES, TIMES, st.integers(1, 1000))
def test_idle_engines_never_refuse(num_tokens: int, rate: float | None, time_left_s: float, limit: int) -> None:
    Admission(max_queued=limit).check(amount=num_tokens, ahead=0, per_s=rate, time_left_s=time_left_s)


@given(TOKENS, TOKENS, TOKENS, KNOWN_RATES, TIMES)
def test_with_more_ahead_nobody_is_told_to_come_sooner(
    num_tokens: int, one: int, other: int, rate: float | None, time_left_s: float
) -> None:
    admission = Admission(max_queued=1_000_000)
    fewer, more = (
        retry_after_s(admission, amount=num_tokens, ahead=ahead, per_s=rate, time_left_s=time_left_s)
        for ahead in sorted([one, other])
    )
    assert fewer <= more
    assert 0 <= more <= 60


@given(st.integers(0, 20_000), st.integers(0, 50_000), st.floats(1000, 1e5), st.floats(0, 20))
def test_whoever_comes_back_as_told_is_let_in(
    num_tokens: int, tokens_ahead: int, rate: float, time_left_s: float
) -> None:
    admission = Admission(max_queued=30_000)
    told_s = retry_after_s(admission, amount=num_tokens, ahead=tokens_ahead, per_s=rate, time_left_s=time_left_s)
    left = max(tokens_ahead - told_s * rate, 0)
    assert told_s == 0 or not retry_after_s(
        admission, amount=num_tokens, ahead=int(left), per_s=rate, time_left_s=time_left_s
    )


@pytest.mark.parametrize(
    ("num_tokens", "tokens_ahead", "rate", "time_left_s", "told_s"),
    [
        pytest.param(1000, 4500, 1000.0, 10.0, 0, id="just in time"),
        pytest.param(1000, 4501, 1000.0, 10.0, 1, id="a little late"),
        pytest.param(1000, 7000, 1000.0, 10.0, 3, id="2.5 s late"),
        pytest.param(1000, 90_000, 1000.0, 10.0, 60, id="never more than a minute"),
        pytest.param(10_000, 500, 1000.0, 10.0, 1, id="fits only when nothing is ahead"),
        pytest.param(1000, 99_000, 1e6, 10.0, 0, id="queue just full"),
        pytest.param(1000, 99_001, 1e6, 10.0, 1, id="queue more than full"),
        pytest.param(50_000, 70_000, 1e4, 100.0, 2, id="queue has room again in 2 s"),
        pytest.param(1000, 99_000, None, 0.001, 0, id="rate unknown, room"),
        pytest.param(1000, 99_001, None, 10.0, 1, id="rate unknown, no room"),
        pytest.param(1, 1, 1000.0, 0.0, 1, id="no time left"),
    ],
)
def test_a_request_is_told(
    num_tokens: int, tokens_ahead: int, rate: float | None, time_left_s: float, told_s: int
) -> None:
    admission = Admission(max_wait_share=0.5, max_queued=100_000)
    found = retry_after_s(admission, amount=num_tokens, ahead=tokens_ahead, per_s=rate, time_left_s=time_left_s)
    assert found == told_s


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3000)), max_size=30), st.integers(1, 100_000))
def test_estimate_is_always_a_number_of_tokens_that_grows_with_the_text(
    seen: list[tuple[int, int]], num_chars: int
) -> None:
    estimate = TokenEstimate()
    for chars, tokens in seen:
        estimate.observe(chars, tokens)
    assert 0 < estimate.tokens(num_chars) <= estimate.tokens(num_chars + 1)
    assert estimate.tokens(0) == 0
    assert estimate.tokens_per_pair > 0


def test_estimate_begins_with_a_guess() -> None:
    assert TokenEstimate().tokens(3000) == 1000
    assert TokenEstimate().tokens_per_pair == 200


@given(st.integers(100, 2000), st.floats(0.1, 2), st.integers(1, 100))
def test_estimate_learns_what_texts_have(num_chars: int, tokens_per_char: float, num_pairs: int) -> None:
    estimate, num_tokens = TokenEstimate(), round(num_chars * tokens_per_char)
    for _ in range(400):
        estimate.observe(num_chars * num_pairs, num_tokens * num_pairs, num_pairs)
    assert estimate.tokens(num_chars * 20) == pytest.approx(num_tokens * 20, rel=0.1, abs=1)
    assert estimate.tokens_per_pair == pytest.approx(num_tokens, rel=0.1, abs=1)


def test_estimate_follows_other_texts() -> None:
    estimate = TokenEstimate()
    for _ in range(500):
        estimate.observe(1000, 250)
    for _ in range(500):
        estimate.observe(300, 300)
    assert estimate.tokens(1000) == pytest.approx(1000, rel=0.3)
    assert estimate.tokens_per_pair == pytest.approx(300, rel=0.1)
