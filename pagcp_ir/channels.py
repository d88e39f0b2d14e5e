"""ChannelGraph: which channels live and die together, on which tensor axes they occur, and which may not be cut.

Units are numbered 0..n_units-1 over the ORIGINAL network and keep their numbers after cuts: a graph restricted to
the units that are kept describes the cut network, so that rounds never compound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Binding",
    "ChannelGraph",
    "Group",
    "Layer",
    "Pin",
    "TensorInfo",
    "Tie",
    "Units",
    "ValueAxis",
    "layer_of",
]

Units = NDArray[np.int64]
Keep = NDArray[np.bool_]
Role = Literal["out", "in", "along"]


@dataclass(frozen=True)
class Binding:
    """The unit at each index of one tensor axis. `role`: a producer's output, a reader's input, or along.

    `read`: whether a reader takes its inputs from it; with tied weights a producer's output may be read as well.
    """

    tensor: str
    dim: int
    units: Units
    role: Role
    read: bool = False

    def restrict(self, keep: Keep) -> Binding:
        return replace(self, units=self.units[keep[self.units]])


@dataclass(frozen=True)
class ValueAxis:
    """The axis along which an activation's channels lie, and the unit at each index."""

    axis: int
    units: Units

    def restrict(self, keep: Keep) -> ValueAxis:
        return replace(self, units=self.units[keep[self.units]])


@dataclass(frozen=True)
class Group:
    """The width of a layer: the units of producers that share output axes, in the first producer's order."""

    name: str
    units: Units
    producers: tuple[str, ...]
    readers: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class Pin:
    """Units that may not be cut, and why: the reason and the source line."""

    units: Units
    reason: str
    where: str


@dataclass(frozen=True)
class Tie:
    """What one op holds together: the labels left[i] and right[i] are one unit, because of that op at that line."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    op: str
    where: str


@dataclass(frozen=True)
class Layer:
    """One weighted call site: macs(keep) = factor * |inputs kept| * |outputs kept| / groups kept, at batch 1."""

    name: str
    kind: str
    node: str
    factor: int
    inputs: Units
    outputs: Units
    per_channel: bool
    parts: int
    tensors: tuple[str, ...]

    def restrict(self, keep: Keep) -> Layer:
        return replace(self, inputs=self.inputs[keep[self.inputs]], outputs=self.outputs[keep[self.outputs]])


@dataclass(frozen=True)
class TensorInfo:
    """A parameter or buffer of the network that the graph describes."""

    shape: tuple[int, ...]
    itemsize: int
    is_parameter: bool


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """What `analyse` found. Arrays hold unit numbers over the original network; the last unit is always kept."""

    n_units: int
    groups: tuple[Group, ...]
    bindings: tuple[Binding, ...]
    pins: tuple[Pin, ...]
    values: Mapping[str, ValueAxis]
    layers: tuple[Layer, ...]
    tensors: Mapping[str, TensorInfo]
    contracted: Keep
    """bool [n_units]: units that end in a sum of products without weights; masking zeroes their producers."""
    normalised: tuple[Units, ...] = ()
    """Axes over which statistics are taken channel by channel: of a single one nothing but the bias would be left."""
    ties: tuple[Tie, ...] = ()
    """In the order of the program; together they make the units out of labels."""
    labels: Mapping[tuple[str, int], NDArray[np.int32]] = field(default_factory=dict)
    """The label at each index of a (tensor, dim) that is bound, before anything was tied."""

    @property
    def free(self) -> Keep:
        """bool [n_units]: units that may be cut."""
        free = np.zeros(self.n_units, dtype=np.bool_)
        for group in self.groups:
            free[group.units] = True
        for pin in self.pins:
            free[pin.units] = False
        return free

    @property
    def all(self) -> Keep:
        """The keep-set of the uncut network: bool [n_units], all True."""
        return np.ones(self.n_units, dtype=np.bool_)

    @cached_property
    def distinct_axes(self) -> tuple[Units, ...]:
        """The units along every axis of a tensor or an activation, equal axes once."""
        axes = [b.units for b in self.bindings] + [v.units for v in self.values.values()]
        return tuple({axis.tobytes(): axis for axis in axes}.values())

    @cached_property
    def floors(self) -> NDArray[np.int64]:
        """How many channels have to stay on each of the distinct axes."""
        twice = {axis.tobytes() for axis in self.normalised}
        return np.array([min(axis.size, 2 if axis.tobytes() in twice else 1) for axis in self.distinct_axes])

    def group(self, name: str) -> Group:
        """The group of that name. KeyError when there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def of(self, group: Group, role: Role) -> tuple[Binding, ...]:
        """The bindings in that role that touch the group's units."""
        inside = np.zeros(self.n_units, dtype=np.bool_)
        inside[group.units] = True
        return tuple(b for b in self.bindings if b.role == role and bool(inside[b.units].any()))

    def restrict(self, keep: Keep) -> ChannelGraph:
        """The graph of the network from which all other units are cut; units and groups keep their numbers."""
        sizes = {(b.tensor, b.dim): int(keep[b.units].sum()) for b in self.bindings}
        tensors = {
            name: replace(info, shape=tuple(sizes.get((name, d), s) for d, s in enumerate(info.shape)))
            for name, info in self.tensors.items()
        }
        return replace(
            self,
            bindings=tuple(b.restrict(keep) for b in self.bindings),
            values={name: value.restrict(keep) for name, value in self.values.items()},
            layers=tuple(layer.restrict(keep) for layer in self.layers),
            normalised=tuple(axis[keep[axis]] for axis in self.normalised),
            tensors=tensors,
        )


def layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to: `conv1.weight` -> `conv1`."""
    return tensor.removesuffix(".weight")
