"""Labels: one integer per channel, carried through the traced graph in place of activations.

A value is an int32 tensor of the activation's real shape whose strides are 0 along every axis on which the labels do
not vary; positions with equal labels live or die together. Labels >= 0 are channels; a negative label -k-1 marks a
position that is always there, for reason k. Ties and pins are collected and solved once, by connected components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from pagcp_ir.channels import Role, Tie

__all__ = [
    "Labels",
    "RawLayer",
    "RawPin",
    "Ref",
    "compact",
    "spread",
    "through",
    "tied_across",
    "varying",
    "without_copies",
]


ELEMENTS = 2_000_000
"""Larger tensors are not labelled element by element."""


@dataclass(frozen=True)
class Ref:
    """A parameter or buffer met as a value: its canonical name, and the tensor."""

    name: str
    tensor: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape


@dataclass(frozen=True)
class RawPin:
    labels: NDArray[np.int64]
    reason: str
    where: str


@dataclass(frozen=True)
class RawLayer:
    """A weighted call site, still in labels; see channels.Layer."""

    name: str
    kind: str
    node: str
    factor: int
    inputs: Tensor
    outputs: Tensor
    per_channel: bool
    parts: int
    tensors: tuple[str, ...]


@dataclass
class Labels:
    """The labels given out so far, what ties and pins them, and the tensor axes they are bound to."""

    count: int = 0
    where: str = ""
    op: str = ""
    ties: list[Tie] = field(default_factory=list)
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The op and the source line of every value."""
    pins: list[RawPin] = field(default_factory=list)
    fixed_reasons: list[str] = field(default_factory=list)
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    roles: dict[tuple[str, int], Role] = field(default_factory=dict)
    read: set[tuple[str, int]] = field(default_factory=set)
    """Axes that a reader takes its inputs from, those of tied weights that make channels elsewhere too."""
    places: dict[tuple[str, int], str] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    layers: list[RawLayer] = field(default_factory=list)
    frozen: dict[str, str] = field(default_factory=dict)
    contracted: list[Tensor] = field(default_factory=list)
    divisors: list[Tensor] = field(default_factory=list)
    normalised: list[Tensor] = field(default_factory=list)
    constant: set[str] = field(default_factory=set)
    """Nodes whose value does not depend on an input, and so not on the batch."""
    clean: set[str] = field(default_factory=set)
    """Nodes whose value is 0 wherever their producer's tensors are 0."""

    def fresh(self, count: int) -> Tensor:
        """`count` new labels, int32 [count]."""
        start, self.count = self.count, self.count + count
        return torch.arange(start, self.count, dtype=torch.int32)

    def fixed(self, shape: tuple[int, ...], reason: str) -> Tensor:
        """A value whose positions are always there; whoever is tied to it is pinned for `reason`."""
        if reason not in self.fixed_reasons:
            self.fixed_reasons.append(reason)
        label = -self.fixed_reasons.index(reason) - 1
        return torch.tensor(label, dtype=torch.int32).expand(shape)

    def axis(self, ref: Ref, dim: int, role: Role) -> Tensor:
        """The labels of one axis of a tensor, made on first use: int32 [size]. Output beats input beats along."""
        key = (ref.name, dim % len(ref.shape))
        if key not in self.axes:
            self.axes[key] = self.fresh(ref.shape[dim])
            self.roles[key], self.places[key] = role, self.where
            if ref.name in self.frozen:
                self.pin(self.axes[key], self.frozen[ref.name])
        elif _RANK[role] > _RANK[self.roles[key]]:
            self.roles[key] = role
        if role == "in":
            self.read.add(key)
        return self.axes[key]

    def element_labels(self, ref: Ref) -> Tensor:
        """A tensor's labels element by element, for one that is moved about before it is used."""
        long = [d for d, size in enumerate(ref.shape) if size > 1]
        if len(long) == 1:
            return spread(self.axis(ref, long[0], "along"), long[0], tuple(ref.shape))
        if ref.name not in self.whole:
            if ref.tensor.numel() > ELEMENTS:
                return self.fixed(tuple(ref.shape), f"`{ref.name}`, too large to follow element by element")
            self.whole[ref.name] = compact(self.fresh(ref.tensor.numel()).view(ref.shape))
            if ref.name in self.frozen:
                self.pin(self.whole[ref.name], self.frozen[ref.name])
        return self.whole[ref.name]

    def freeze(self, ref: Ref, reason: str) -> None:
        """Pin every axis of a tensor, those made later too."""
        self.frozen.setdefault(ref.name, reason)
        for (name, _), labels in self.axes.items():
            if name == ref.name:
                self.pin(labels, reason)
        if ref.name in self.whole:
            self.pin(self.whole[ref.name], reason)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Unify labels position by position (shapes broadcast). Meeting a fixed position pins instead."""
        a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        both = set(varying(a)) | set(varying(b))
        cut = tuple(slice(None) if d in both else slice(0, 1) for d in range(a.ndim))
        left = a[cut].reshape(-1).numpy().astype(np.int64)
        right = b[cut].reshape(-1).numpy().astype(np.int64)
        free = (left >= 0) & (right >= 0) & (left != right)
        if free.any():
            self.ties.append(Tie(left[free], right[free], self.op, self.where))
        if left.size and min(left.min(), right.min()) < 0:
            self._pin_to_fixed(left, right)
            self._pin_to_fixed(right, left)

    def _pin_to_fixed(self, fixed: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        hit = (fixed < 0) & (other >= 0)
        for label in np.unique(fixed[hit]):
            reason = f"meets {self.fixed_reasons[-int(label) - 1]} in `{self.op}`"
            self._pin(other[hit & (fixed == label)], reason)

    def pin(self, value: Tensor, reason: str) -> None:
        """Labels that may not be cut, with the current op's source line."""
        labels = without_copies(value).reshape(-1).numpy().astype(np.int64)
        self._pin(labels[labels >= 0], reason)

    def _pin(self, labels: NDArray[np.int64], reason: str) -> None:
        if labels.size:
            self.pins.append(RawPin(np.unique(labels), reason, self.where))

    def along(self, value: Tensor, axis: int, reason: str) -> Tensor:
        """The labels along one axis, int32 [size]: tied across the others (one-axis law).

        A value that varies on other axes only has no channels there: it is pinned for `reason`.
        """
        axis %= value.ndim
        others = [d for d in varying(value) if d != axis]
        if others and axis not in varying(value):
            self.pin(value, reason)
            return self.fixed((value.shape[axis],), reason)
        base = value
        for dim in others:
            base = base.narrow(dim, 0, 1)
        if others:
            self.tie(value, base)
        index = tuple(slice(None) if d == axis else 0 for d in range(value.ndim))
        return base[index]

    def roots(self) -> NDArray[np.int64]:
        """The class of every label, numbered in order of first appearance: int64 [count]."""
        if not self.ties:
            return np.arange(self.count, dtype=np.int64)
        left = np.concatenate([tie.left for tie in self.ties])
        right = np.concatenate([tie.right for tie in self.ties])
        graph = coo_matrix((np.ones(left.size, dtype=np.int8), (left, right)), shape=(self.count, self.count))
        classes: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
        return classes

    def settle(self, values: Mapping[str, Tensor]) -> NDArray[np.int64]:
        """Enforce the one-axis law on all values: tie every one that varies on several axes; return the classes."""
        for name, value in self.whole.items():
            for (other, dim), vector in self.axes.items():
                if other == name:
                    self.op, self.where = f"`{name}`", self.places[other, dim]
                    self.tie(spread(vector, dim, tuple(value.shape)), value)
        pending = [(n, v) for n, v in [*values.items(), *self.whole.items()] if len(varying(v)) > 1]
        roots = self.roots()
        while pending:
            name, value = pending.pop(0)
            axes = varying(through(value, roots))
            if len(axes) > 1:
                longest = max(axes, key=lambda d: (value.shape[d], d))
                self.op, self.where = self.calls.get(name, (f"`{name}`", ""))
                self.along(value, longest, "varies on several axes")
                roots = self.roots()
        return roots


_RANK: dict[Role, int] = {"along": 0, "in": 1, "out": 2}


def varying(value: Tensor) -> tuple[int, ...]:
    """The axes on which the labels vary: those with a stride."""
    return tuple(d for d in range(value.ndim) if value.shape[d] > 1 and value.stride(d) != 0)


def tied_across(labels: Labels, value: Tensor, dims: Sequence[int]) -> tuple[Tensor, bool]:
    """One-axis law for an op along `dims`: channels lie on the other axes, if the labels vary there at all."""
    across = [d for d in varying(value) if d in dims]
    if not across:
        return value, True
    if len(across) == len(varying(value)):
        return value, False
    base = value
    for dim in across:
        base = base.narrow(dim, 0, 1)
    labels.tie(value, base)
    return base.expand(value.shape), True


def spread(vector: Tensor, axis: int, shape: tuple[int, ...]) -> Tensor:
    """The value of that shape whose labels along `axis` are `vector` [shape[axis]]."""
    view = [1] * len(shape)
    view[axis] = vector.shape[0]
    return vector.view(view).expand(shape)


def compact(value: Tensor) -> Tensor:
    """The same labels with stride 0 along every axis on which they do not vary."""
    small = without_copies(value)
    for dim in varying(small):
        labels = small.numpy()
        first = labels.take([0], axis=dim)
        if (labels == first).all():
            small = small.narrow(dim, 0, 1)
    return small.contiguous().expand(value.shape)


def without_copies(value: Tensor) -> Tensor:
    """One position of every axis along which the labels do not vary."""
    return value[tuple(slice(None) if s else slice(0, 1) for s in value.stride())]


def through(value: Tensor, roots: NDArray[np.int64]) -> Tensor:
    """The value with every label replaced by its class; fixed positions stay negative."""
    small = without_copies(value).numpy().astype(np.int64)
    mapped = np.where(small >= 0, roots[np.maximum(small, 0)] if roots.size else small, small)
    return compact(torch.from_numpy(mapped.astype(np.int32)).expand(value.shape))
