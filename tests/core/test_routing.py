"""Where passages go: always to the same replica, unless that has too much."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.core.routing import choose_replica

NAMES = ("http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:8000")
IDLE = dict.fromkeys(NAMES, 0)


def choose(
    group: str, load: dict[str, int] = IDLE, names: tuple[str, ...] = NAMES, num_tokens: int = 100
) -> str | None:
    return choose_replica(group, num_tokens, names, load, load_factor=1.25, slack_tokens=1000)


def test_without_room_anywhere_there_is_none() -> None:
    assert choose("g", names=()) is None


def test_the_same_passage_goes_to_the_same_replica_and_all_get_some() -> None:
    homes = {f"g{n}": choose(f"g{n}") for n in range(900)}
    assert homes == {group: choose(group) for group in homes}
    assert all(count > 200 for count in Counter(homes.values()).values())
    assert len(set(homes.values())) == 3


def test_a_replica_that_goes_moves_its_own_passages_only() -> None:
    left = NAMES[:2]
    for n in range(300):
        before = choose(f"g{n}")
        assert before == NAMES[2] or choose(f"g{n}", dict.fromkeys(left, 0), left) == before


def test_a_replica_with_too_much_hands_on_what_comes() -> None:
    group = next(f"g{n}" for n in range(99) if choose(f"g{n}") == NAMES[0])
    assert choose(group, {NAMES[0]: 20_000, NAMES[1]: 0, NAMES[2]: 0}) != NAMES[0]
    assert choose(group, {NAMES[0]: 20_000, NAMES[1]: 19_000, NAMES[2]: 19_000}) == NAMES[0]


@given(st.lists(st.integers(0, 50_000), min_size=3, max_size=3), st.integers(1, 5_000), st.text())
def test_nobody_gets_more_than_the_bound_while_another_is_below_it(
    loads: list[int], num_tokens: int, group: str
) -> None:
    load = dict(zip(NAMES, loads, strict=True))
    chosen = choose(group, load, num_tokens=num_tokens)
    bound = 1.25 * (sum(loads) + num_tokens) / 3 + 1000
    assert chosen is not None
    assert load[chosen] + num_tokens <= bound or all(tokens + num_tokens > bound for tokens in loads)
