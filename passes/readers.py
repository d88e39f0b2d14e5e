"""What can be fitted: the weight of a layer, the calls that alone use it, and where an offset of theirs can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from pagcp_ir.channels import Units
from pagcp_ir.compensate import Place, Users, folds
from pagcp_ir.patches import Patches, patches
from pagcp_ir.program import Program
from pagcp_ir.reads import Read, all_reads
from passes.base import State

__all__ = ["Reader", "heads", "readers"]


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer of the network that is cut. `outputs`: which of the original's it still gives, by index.

    `offset`: the tensor that an offset goes to, and as what; None: nowhere. `norms`: by call, the name of the running
    mean of the BatchNorm behind it. `loses`: whether any of its inputs is cut.
    """

    weight: str
    calls: tuple[str, ...]
    how: tuple[Patches, ...]
    outputs: Units
    offset: tuple[str, Place] | None
    norms: tuple[str | None, ...]
    loses: bool

    @property
    def name(self) -> str:
        """The layer's."""
        return self.weight.removesuffix(".weight")

    def shift(self, dense: Program, cut: Program) -> list[Tensor]:
        """By call: how much lower than the original's its outputs are to be, because of the BatchNorm behind."""
        kept, none = torch.from_numpy(self.outputs), torch.zeros(())
        return [none if n is None else dense.tensors()[n][kept] - cut.tensors()[n] for n in self.norms]


def readers(state: State) -> tuple[Reader, ...]:
    """The layers of the state's program, in the order of their first call, that can be fitted."""
    program, here, keep = state.program, state.here, state.keep
    before = {layer.node: layer for layer in state.channels.layers}
    nodes = {node.name: node for node in program.module.graph.nodes}
    users, found = Users(program), all_reads(program, here)
    places = {fold.reads[0].layer.tensors[0]: fold for fold in folds(program, found, grow=False)}
    by_weight: dict[str, list[Read]] = {}
    for read in found:
        if read.weighted:
            by_weight.setdefault(read.layer.tensors[0], []).append(read)
    made = []
    for weight, calls in by_weight.items():
        names = tuple(read.node for read in calls)
        how = [patches(program, nodes[name], program.tensors()[weight]) for name in names]
        if users.users.get(weight) != set(names) or any(each is None for each in how):
            continue
        fold = places.get(weight)
        whole = fold is not None and {read.node for read in fold.reads} == set(names)
        original = before[names[0]]
        made.append(
            Reader(
                weight,
                names,
                tuple(each for each in how if each is not None),
                np.flatnonzero(keep[original.outputs]),
                (fold.tensor, fold.place) if fold is not None and whole else None,
                tuple(_running_mean(users, nodes[read.node], read) for read in calls),
                any(not keep[before[name].inputs].all() for name in names),
            )
        )
    return tuple(made)


def _running_mean(users: Users, node: fx.Node, read: Read) -> str | None:
    norm = users.norm(node, read)
    return None if norm is None or norm.running_mean is None else users.names[id(norm.running_mean)]


def heads(program: Program, found: Sequence[Reader]) -> tuple[Reader, ...]:
    """Those of them from which an output of the network is reached past no other of them."""
    calls = {name for reader in found for name in reader.calls}
    return tuple(r for r in found if any(_reaches(program, name, calls) for name in r.calls))


def _reaches(program: Program, start: str, calls: set[str]) -> bool:
    nodes = {node.name: node for node in program.module.graph.nodes}
    pending, seen = list(nodes[start].users), set[fx.Node]()
    while pending:
        node = pending.pop()
        if node.op == "output":
            return True
        if node not in seen and node.name not in calls:
            seen.add(node)
            pending.extend(node.users)
    return False
