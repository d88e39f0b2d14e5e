"""Reads: where the weighted calls of a network see its units. A removed unit is gone from exactly these places.

A unit is read by every convolution and linear layer that takes it as an input, after whatever works channel by
channel before it (normalisations, activations, pools, depthwise convolutions, sums). In a sum of products without
weights, which a unit that is removed leaves as a zero, it is read at the first operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from pagcp_ir.channels import ChannelGraph, Layer, Units
from pagcp_ir.program import Program

__all__ = ["Means", "Observer", "Read", "Sums", "all_reads", "mean_of", "means", "over_positions", "reads", "sums"]

Means = Mapping[str, Tensor]
"""By node of a weighted read: what it reads on average over samples and positions, float64 [width]."""
Sums = Mapping[str, tuple[Tensor, int]]
"""By node of a weighted read: the sum of what it reads of a batch, float64 [width], and of how many values."""


@dataclass(frozen=True, eq=False)
class Read:
    """The call `node` takes the value `operand`, whose `axis` (counted from the end) holds these units."""

    node: str
    operand: str
    axis: int
    units: Units
    layer: Layer

    @property
    def weighted(self) -> bool:
        """Whether the call has weights, so that what it reads can be made up for in its bias."""
        return bool(self.layer.tensors)


def reads(program: Program, channels: ChannelGraph) -> tuple[Read, ...]:
    """All reads of units that may be cut, in the order of the graph; `channels` describe `program`."""
    free = channels.free
    return tuple(read for read in all_reads(program, channels) if bool(free[read.units].any()))


def all_reads(program: Program, channels: ChannelGraph) -> tuple[Read, ...]:
    """The same, also of units that may not be cut."""
    nodes = {node.name: node for node in program.module.graph.nodes}
    found = (_read(nodes[layer.node], layer, channels) for layer in channels.layers if not layer.per_channel)
    return tuple(read for read in found if read is not None)


def _read(node: fx.Node, layer: Layer, channels: ChannelGraph) -> Read | None:
    if layer.tensors:
        operand = node.args[0] if node.args else node.kwargs["input"]
        assert isinstance(operand, fx.Node)
        kernel = len(channels.tensors[layer.tensors[0]].shape) - 1
        return Read(node.name, operand.name, -kernel, layer.inputs, layer)
    for operand in node.all_input_nodes:
        value = channels.values.get(operand.name)
        if value is not None and np.array_equal(value.units, layer.inputs):
            axis = value.axis - operand.meta["value"].ndim
            return Read(node.name, operand.name, axis, layer.inputs, layer)
    return None


def over_positions(read: Read, value: Tensor) -> Tensor:
    """The sum of what is read over all axes but the first and that of the units: float64 [first, width].

    The first axis is the second where the units lie on it.
    """
    moved = value.movedim(read.axis, -1)
    return moved.reshape(moved.shape[0], -1, moved.shape[-1]).sum(1, dtype=torch.float64)


def means(program: Program, found: Sequence[Read], inputs: Iterable[tuple[Tensor, ...]]) -> Means:
    """What the weighted ones of these reads see on average; a feature of a flattened map is averaged by itself."""
    return mean_of(sums(program, found, given) for given in inputs)


def sums(program: Program, found: Sequence[Read], inputs: tuple[Tensor, ...]) -> Sums:
    """What the weighted ones of these reads see of one batch, added up."""
    totals: dict[str, tuple[Tensor, int]] = {}

    def see(read: Read, value: Tensor) -> Tensor:
        if read.weighted:
            totals[read.node] = over_positions(read, value).sum(0).cpu(), value.numel() // len(read.units)
        return value

    with torch.no_grad():
        Observer(program.module, found, see)(*inputs)
    return totals


def mean_of(batches: Iterable[Sums]) -> Means:
    """The mean over batches, added up in their order."""
    totals: dict[str, tuple[Tensor, int]] = {}
    for batch in batches:
        for node, (total, count) in batch.items():
            before, so_far = totals.get(node, (torch.zeros_like(total), 0))
            totals[node] = before + total, so_far + count
    return {node: total / count for node, (total, count) in totals.items()}


class Observer(fx.Interpreter):
    """Runs a program; `see` is shown what each read takes and returns what it takes instead."""

    def __init__(self, module: fx.GraphModule, found: Sequence[Read], see: Callable[[Read, Tensor], Tensor]) -> None:
        super().__init__(module)
        self.found, self.see = {read.node: read for read in found}, see

    def __call__(self, *inputs: Tensor) -> Any:
        return self.run(*inputs)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        read = self.found.get(n.name)
        if read is None:
            return super().fetch_args_kwargs_from_env(n)

        def taken(node: fx.Node) -> Any:
            value = self.env[node]
            return self.see(read, value) if node.name == read.operand else value

        return fx.node.map_arg((n.args, n.kwargs), taken)
