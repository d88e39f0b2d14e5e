"""Why producers share a width: the ties of a channel graph, boiled down to a spanning tree over each group's producers.

Ties are joined in the order of the program (Kruskal); one that first brings two sets of producers together is why
they are coupled. A group of n producers has n - 1 of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pagcp_ir.channels import Binding, ChannelGraph, Tie, layer_of

__all__ = ["Coupling", "couplings"]


@dataclass(frozen=True)
class Coupling:
    """The op that ties the outputs of layer `second` to those of `first`; `op`: its title, `where`: its source line."""

    first: str
    second: str
    op: str
    where: str


def couplings(channels: ChannelGraph) -> Mapping[str, tuple[Coupling, ...]]:
    """Of every group, by name, what couples its producers, in the order of the program."""
    group_of = {unit: group.name for group in channels.groups for unit in group.units.tolist()}
    made = [b for b in channels.bindings if b.role == "out"]
    sets = _Sets(channels, made)
    found: dict[str, list[Coupling]] = {group.name: [] for group in channels.groups}
    for tie in channels.ties:
        for a, b in sets.join(tie):
            first, second = made[a], made[b]
            group = group_of[int(first.units[0])]
            found[group].append(Coupling(layer_of(first.tensor), layer_of(second.tensor), tie.op, tie.where))
    return {name: tuple(ties) for name, ties in found.items()}


class _Sets:
    """Disjoint sets of labels; those of one producer's output axis start as one set."""

    def __init__(self, channels: ChannelGraph, made: Sequence[Binding]) -> None:
        axes = [channels.labels[binding.tensor, binding.dim].tolist() for binding in made]
        self.parent: dict[int, int] = {label: axis[0] for axis in axes for label in axis}
        self.earliest = {axis[0]: number for number, axis in enumerate(axes)}
        """The producer of a set, by the set's root; the first one where it has several."""

    def join(self, tie: Tie) -> list[tuple[int, int]]:
        """Unite what the tie holds together; the producers whose sets met, by number."""
        met = []
        for left, right in zip(tie.left.tolist(), tie.right.tolist(), strict=True):
            a, b = self._root(left), self._root(right)
            if a == b:
                continue
            self.parent[b] = a
            known = sorted(self.earliest.pop(root) for root in (a, b) if root in self.earliest)
            if known:
                self.earliest[a] = known[0]
            if len(known) == 2:
                met.append((known[0], known[1]))
        return met

    def _root(self, label: int) -> int:
        root = label
        while (above := self.parent.setdefault(root, root)) != root:
            root = above
        while label != root:
            label, self.parent[label] = self.parent[label], root
        return root
