"""Whether there is time for one more request: what waits, over what the engines finish per second."""

from dataclasses import dataclass, field
from math import ceil
from typing import Final

from service.errors import OverloadedError

MAX_RETRY_AFTER_S: Final = 60
# Calls finish in bursts. Over less busy time than this a rate says more about the burst than about the engines.
MIN_BUSY_S: Final = 0.05
RATE_HALF_LIFE_S: Final = 2.0

# Before any text was tokenised: English has about 4 characters a token, and a passage of 100 words about 200
# tokens with its prompt. Other scripts are learned within a few requests.
INITIAL_TOKENS_PER_CHAR: Final = 1 / 3
INITIAL_TOKENS_PER_PAIR: Final = 200.0
ESTIMATE_HALF_LIFE_PAIRS: Final = 200.0
ESTIMATE_HALF_LIFE_CHARS: Final = 100_000.0


@dataclass(slots=True)
class FadingRatio:
    """An amount per unit. What was seen `half_life` units ago counts half as much as what is seen now.

    Amount and units fade together, so that the ratio is a plain mean at the beginning and free of its start.
    """

    half_life: float
    amount: float = 0.0
    units: float = 0.0

    def add(self, amount: float, units: float) -> None:
        kept = 0.5 ** (units / self.half_life)
        self.amount = self.amount * kept + amount
        self.units = self.units * kept + units

    def value(self) -> float:
        """Raises ZeroDivisionError where nothing was added yet."""
        return self.amount / self.units


@dataclass(slots=True)
class _Stretch:
    """The amount finished and the seconds spent, all of them on work that was begun within the stretch."""

    amount: int = 0
    busy_s: float = 0.0

    def add(self, amount: int, busy_s: float) -> None:
        self.amount += amount
        self.busy_s += busy_s


class DrainRate:
    """What is finished per second, in the unit of the caller's choice, while there is enough to do.

    While work waits, every call that finishes moves the rate. Otherwise the engines might have done more, so
    what they did is only a lower bound: they can do that much. The bound counts from the last moment with
    nothing outstanding, since a call that was begun before it would be counted without its time.

    What engines did for calls that were given up is not known: neither that time counts nor what was under way in it.
    Else callers who hang up would make the engines look slow, and others be refused.
    """

    def __init__(self) -> None:
        self._rate = FadingRatio(RATE_HALF_LIFE_S)
        self._stretch = _Stretch()
        self._last_s: float | None = None

    def observe(self, amount: int, now_s: float, *, is_saturated: bool) -> None:
        """A call of `amount` was finished now; saturated where work was waiting ever since the last one."""
        if self._last_s is None:
            self._last_s = now_s
            return
        busy_s = max(now_s - self._last_s, 0.0)
        self._last_s = now_s
        self._stretch.add(amount, busy_s)
        if is_saturated:
            self._rate.add(amount, busy_s)
        else:
            self._raise()

    def resume(self, now_s: float) -> None:
        """Work begins with nothing outstanding: the time before now does not count."""
        self._last_s = now_s
        if self._stretch.busy_s >= MIN_BUSY_S:
            self._stretch = _Stretch()

    def skip(self, now_s: float) -> None:
        """A call was given up now, or one has finished during which another was: it says nothing of the rate."""
        self._last_s = now_s
        self._stretch = _Stretch()

    @property
    def per_s(self) -> float | None:
        """Above 0; None until the engines were saturated for `MIN_BUSY_S`.

        Lightly loaded engines show no rate: their lower bound may be far too low to refuse anyone by it.
        """
        is_known = self._rate.units >= MIN_BUSY_S and self._rate.amount > 0
        return self._rate.value() if is_known else None

    def _raise(self) -> None:
        known = self.per_s
        if known is None or self._stretch.busy_s < MIN_BUSY_S:
            return
        proven = self._stretch.amount / self._stretch.busy_s
        self._rate.amount = max(known, proven) * self._rate.units


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The rule: of the time that its own work leaves it, a request may have to wait `max_wait_share`.

    What is ahead is what there is now; who comes while it waits shares with it, which about doubles the wait under
    steady load. Hence less than a third by default: requests that are admitted and then miss their deadline cost as
    much as those that don't, and past a point nobody would be served at all. A longer queue brings nothing.
    At most `max_queued` wait. Engines with nothing to do refuse nobody: whoever comes then has the best
    chance there is.
    """

    max_queued: int
    max_wait_share: float = 0.3
    unit: str = "prompt tokens"

    def check(self, *, amount: int, ahead: int, per_s: float | None, time_left_s: float) -> None:
        """Let a request of `amount` pass that would wait behind `ahead`, or refuse it.

        `per_s` is above 0, or None while it is unknown; then only the bound on the queue holds.

        Raises:
            OverloadedError: with the time after which so much has drained that the request would fit.
        """
        if ahead <= 0:
            return
        excess = ahead + amount - self.max_queued
        if per_s is None:
            if excess > 0:
                raise _overloaded(f"{ahead} {self.unit} wait already", 0.0)
            return
        ahead_s, own_s = ahead / per_s, amount / per_s
        late_s = ahead_s - self.max_wait_share * max(time_left_s - own_s, 0.0)
        if excess > 0 or late_s > 0:
            wait_s = min(max(late_s, excess / per_s), ahead_s)
            raise _overloaded(f"{ahead} {self.unit} wait already, for {ahead_s:.1f} s", wait_s)


def _overloaded(reason: str, wait_s: float) -> OverloadedError:
    retry_after_s = ceil(min(max(wait_s, 1.0), MAX_RETRY_AFTER_S))
    return OverloadedError(f"more work waits than can be done in time: {reason}", retry_after_s=retry_after_s)


def _tokens_per_char() -> FadingRatio:
    return FadingRatio(ESTIMATE_HALF_LIFE_CHARS, INITIAL_TOKENS_PER_CHAR * 200, 200)


def _tokens_per_pair() -> FadingRatio:
    return FadingRatio(ESTIMATE_HALF_LIFE_PAIRS, INITIAL_TOKENS_PER_PAIR, 1)


@dataclass(slots=True)
class TokenEstimate:
    """Prompt tokens of pairs that were not tokenised yet, by what others had."""

    _per_char: FadingRatio = field(default_factory=_tokens_per_char)
    _per_pair: FadingRatio = field(default_factory=_tokens_per_pair)

    def observe(self, num_chars: int, num_tokens: int, num_pairs: int = 1) -> None:
        """`num_pairs` prompts were made: of so many characters of passages, so many tokens in all."""
        self._per_char.add(num_tokens, num_chars)
        self._per_pair.add(num_tokens, num_pairs)

    def tokens(self, num_chars: int) -> int:
        """Rounded up: at least 1 for any text."""
        return ceil(num_chars * self._per_char.value())

    @property
    def tokens_per_pair(self) -> int:
        """For pairs whose text is not known either; rounded up."""
        return ceil(self._per_pair.value())
