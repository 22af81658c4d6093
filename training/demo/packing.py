"""Many training examples in one sequence: contexts shared by their questions, as a tree.

A full prompt of five passages and one question is 95 % passages. Here a context is laid down once and every
question about it is a branch: it sees the system text and its own context, not its sisters. Positions
restart where a branch begins, so each path from the root is exactly the prompt that the service sends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IGNORED, ANSWER, SCORE, CONTEXT, PUBLIC_ANSWER, PUBLIC_SCORE = range(6)
NOWHERE = -1  # where a pointing head looks if the context does not hold the answer: at the first token of all
LEAD, FOLLOW, BIND = range(3)  # looks for the first token of an answer, for the next, for the name of what it is about


@dataclass(frozen=True, slots=True)
class Branch:
    """One question about a context: the turn's token ids, the target's, and which task it is.

    `spots` says where in the context the answer begins, as far as known, and `homes` for each of them where the
    title of its passage stands; `name` is where the turn names what it asks about.
    """

    turn: Sequence[int]
    target: Sequence[int]
    kind: int
    spots: Sequence[int] = ()
    homes: Sequence[range] = ()
    name: range = range(0)


@dataclass(frozen=True, slots=True)
class Tree:
    """One context (passages as token ids) and the questions asked about it."""

    context: Sequence[int]
    branches: Sequence[Branch]

    def __len__(self) -> int:
        return len(self.context) + sum(len(branch.turn) + len(branch.target) for branch in self.branches)


@dataclass(slots=True)
class Packer:
    """Lays trees side by side under one root (BOS and system text) until `length` tokens are reached."""

    root: Sequence[int]
    length: int
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    pointers: list[tuple[int, list[int], int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._append(self.root, start=0, parent=-1, kind=IGNORED)

    def has_room(self, tree: Tree) -> bool:
        return len(self.ids) + len(tree) <= self.length

    def add(self, tree: Tree) -> None:
        begun = len(self.ids)
        context = self._append(tree.context, start=len(self.root), parent=0, kind=CONTEXT)
        start = len(self.root) + len(tree.context)
        for branch in tree.branches:
            turn = self._append(branch.turn, start=start, parent=context, kind=CONTEXT)
            self._point(branch, begun)
            self._append(branch.target, start=start + len(branch.turn), parent=turn, kind=branch.kind)

    def _point(self, branch: Branch, context: int) -> None:
        """The turn's last token looks at the answer's first, each of the answer's tokens at the one that follows.

        That last token also looks at the name in the turn, and the answer's first at its passage's title.
        """
        asking = len(self.ids) - 1
        if NOWHERE in branch.spots:
            self.pointers.append((asking, [0], LEAD))
        elif branch.spots:
            follow = range(len(branch.target) - 1) if branch.kind in (ANSWER, PUBLIC_ANSWER) else (0,)
            self.pointers.extend(
                (asking + k, [context + s + k for s in branch.spots], FOLLOW if k else LEAD) for k in follow
            )
            if branch.kind in (ANSWER, PUBLIC_ANSWER):  # the answer's end is nowhere in the context
                self.pointers.append((asking + len(branch.target) - 1, [0], FOLLOW))
        if branch.name:
            turn = len(self.ids) - len(branch.turn)
            self.pointers.append((asking, [turn + k for k in branch.name], BIND))
        for spot, home in zip(branch.spots, branch.homes, strict=False):
            if home:
                self.pointers.append((context + spot, [context + k for k in home], BIND))

    def _append(self, ids: Sequence[int], *, start: int, parent: int, kind: int) -> int:
        node = len(self.parents)
        self.parents.append(parent)
        self.ids.extend(ids)
        self.positions.extend(range(start, start + len(ids)))
        self.kinds.extend([kind] * len(ids))
        self.nodes.extend([node] * len(ids))
        return node

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything padded to `length`.

        `input_ids`, `position_ids`, `kinds`: (length,) int64; `sources`: (length,) int64, the index of the
        token that predicts this one (its predecessor on the path from the root); `attention_mask`:
        (length, length) bool, True where a row's token may see a column's token; `pointing`: (length // 4,)
        int64, tokens that should look at one of their `spots` (length // 4, length) bool, -1 where there are no
        more; `roles`: (length // 4,) int64, LEAD, FOLLOW or BIND.
        """
        most = self.length // 4
        pointing, roles = np.full(most, -1), np.zeros(most, dtype=np.int64)
        spots = np.zeros((most, self.length), dtype=bool)
        for row, (token, wanted, role) in enumerate(self.pointers[:most]):
            pointing[row], roles[row], spots[row, wanted] = token, role, True
        padding = self.length - len(self.ids)
        nodes = np.array(self.nodes + [len(self.parents)] * padding)
        ancestors = self._ancestors()
        causal = np.tri(self.length, dtype=bool)
        return {
            "input_ids": np.array(self.ids + [0] * padding),
            "position_ids": np.array(self.positions + [0] * padding),
            "kinds": np.array(self.kinds + [IGNORED] * padding),
            "sources": self._sources(),
            "pointing": pointing,
            "roles": roles,
            "spots": spots,
            "attention_mask": ancestors[nodes[:, None], nodes[None, :]] & causal,
        }

    def _ancestors(self) -> NDArray[np.bool_]:
        count = len(self.parents) + 1  # the last one stands for padding, which sees only itself
        ancestors = np.eye(count, dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                ancestors[node] |= ancestors[parent]
        return ancestors

    def _sources(self) -> NDArray[np.int64]:
        sources = np.arange(-1, self.length - 1)
        first = {node: index for index, node in reversed(list(enumerate(self.nodes)))}
        last = {node: index for index, node in enumerate(self.nodes)}
        for node, index in first.items():
            sources[index] = last[self.parents[node]] if self.parents[node] >= 0 else 0
        return np.maximum(sources, 0)
