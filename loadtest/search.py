"""The capacity: the most questions a second of which nearly all are answered as promised."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.outcomes import Measures

GOOD_SHARE = 0.95
RAISE, MAX_RAISES = 1.6, 8
LOWER, MAX_LOWERS = 2, 4
FLOOR = 0.4  # of what the closed loop got: where the search begins


@dataclass(frozen=True, slots=True)
class Trial:
    """A rate that was offered, and the part of it that was answered as promised."""

    per_s: float
    goodput_share: float

    @property
    def is_held(self) -> bool:
        return self.goodput_share >= GOOD_SHARE


def search(closed_per_s: float, offer: Callable[[float], Measures], *, num_steps: int = 4) -> tuple[float, list[Trial]]:
    """Lower the rate until it holds, raise it until it doesn't, then halve the span between the two.

    So many users one after the other find no more than their number allows, Poisson arrivals come in clusters, and the
    more is asked the more is known already: what can be promised may be more or less. 0 where hardly anything holds.
    """
    held, failed = FLOOR * closed_per_s, 1.2 * closed_per_s
    trials = [_try(held, offer)]
    while not trials[-1].is_held:
        if len(trials) == MAX_LOWERS:
            return 0.0, trials
        failed, held = held, held / LOWER
        trials.append(_try(held, offer))
    for _ in range(MAX_RAISES if len(trials) == 1 else 0):  # else it is known already
        trials.append(_try(failed, offer))
        if not trials[-1].is_held:
            break
        held, failed = failed, RAISE * failed
    for _ in range(num_steps):
        trials.append(_try((held + failed) / 2, offer))
        if trials[-1].is_held:
            held = trials[-1].per_s
        else:
            failed = trials[-1].per_s
    return held, trials


def _try(per_s: float, offer: Callable[[float], Measures]) -> Trial:
    return Trial(per_s, offer(per_s)["goodput_share"])
