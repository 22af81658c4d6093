"""Where a passage's pairs go, so that its prefix is in one replica's KV cache and no replica has too much."""

import hashlib
from collections.abc import Mapping, Sequence


def choose_replica(
    group: str, num_tokens: int, names: Sequence[str], load: Mapping[str, int], *, load_factor: float, slack_tokens: int
) -> str | None:
    """One of `names`, which have room; None if there are none. `load` holds the tokens of all replicas.

    Rendezvous hashing (Thaler and Ravishankar, 1998) with bounded loads (Mirrokni et al., arXiv 1608.01350):
    the first in the group's own order that stays within `load_factor` times the mean and `slack_tokens`, without
    which nothing would be within it while there is little to do. If none does, the one with the least. O(n log n)
    in the number of replicas.
    """
    if len(names) <= 1:
        return names[0] if names else None
    bound = load_factor * (sum(load.values()) + num_tokens) / len(load) + slack_tokens
    for name in sorted(names, key=lambda name: _weight(group, name), reverse=True):
        if load.get(name, 0) + num_tokens <= bound:
            return name
    return min(names, key=lambda name: (load.get(name, 0), name))


def _weight(group: str, name: str) -> bytes:
    """The same in every process and for ever."""
    return hashlib.blake2b(f"{name}\0{group}".encode(), digest_size=8).digest()
