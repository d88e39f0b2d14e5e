"""A weighted call as a product of matrices: y[row] = x[row] @ W + b, one row per output position of every sample.

x[row] is the window that the kernel sees there. A transposed convolution is a plain one of its input with stride - 1
zeros between neighbours, padded by dilation * (kernel - 1) - padding, its kernel turned around.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pagcp_ir.program import Program

__all__ = ["Patches", "patches"]

_CONV = ("stride", "padding", "dilation", "groups")
_TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")
_FUNCTIONS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d), _CONV),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _TRANSPOSED),
    F.linear: (),
}


@dataclass(frozen=True)
class Patches:
    """How a call reads: kernel, step and dilation per spatial dim, (before, after) padding, and groups.

    A linear layer is the kernel (). `between`: the stride of a transposed convolution, 1 for any other.
    """

    kernel: tuple[int, ...]
    step: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()
    between: tuple[int, ...] = ()
    groups: int = 1
    mode: str = "constant"
    transposed: bool = field(default=False)

    @property
    def axis(self) -> int:
        """That of the channels, counted from the end, before and after the call."""
        return -1 - len(self.kernel)

    def outputs(self, value: Tensor, which: Tensor) -> Tensor:
        """Rows `which` of what the call returns: [rows, outputs]."""
        return _rows(self._batched(value), self.axis, which)

    def count(self, value: Tensor) -> int:
        """How many rows there are in what the call returns."""
        return value.numel() // value.shape[self.axis]

    def inputs(self, value: Tensor, which: Tensor) -> Tensor:
        """The windows for rows `which` of what the call reads: [rows, groups, width]."""
        value = self._batched(value)
        if self.kernel:
            value = self._windows(self._padded(value))
        rows = _rows(value, self.axis - len(self.kernel), which, len(self.kernel))
        return rows.reshape(len(which), self.groups, -1)

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as [groups, width, outputs of a group]."""
        if not self.transposed:
            return weight.reshape(self.groups, weight.shape[0] // self.groups, -1).transpose(1, 2)
        turned = weight.flip(self._spatial(2))
        parts = turned.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        return parts.transpose(2, 3).flatten(1, 2)

    def weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        groups, width, outputs = matrix.shape
        inside = width // math.prod(self.kernel)
        if not self.transposed:
            return matrix.transpose(1, 2).reshape(groups * outputs, inside, *self.kernel)
        parts = matrix.reshape(groups, inside, math.prod(self.kernel), outputs).transpose(2, 3)
        return parts.reshape(groups * inside, outputs, *self.kernel).flip(self._spatial(2))

    def _spatial(self, first: int) -> tuple[int, ...]:
        return tuple(range(first, first + len(self.kernel)))

    def _batched(self, value: Tensor) -> Tensor:
        """With a batch axis, which a convolution may go without."""
        return value.unsqueeze(0) if value.ndim == -self.axis else value

    def _padded(self, value: Tensor) -> Tensor:
        if any(stride > 1 for stride in self.between):
            sizes = [(size - 1) * stride + 1 for size, stride in zip(value.shape[2:], self.between, strict=True)]
            spread = value.new_zeros(*value.shape[:2], *sizes)
            places = (slice(None), slice(None), *(slice(None, None, stride) for stride in self.between))
            spread[places] = value
            value = spread
        amounts = [amount for pair in reversed(self.pads) for amount in pair]
        return F.pad(value, amounts, self.mode) if any(amounts) else value

    def _windows(self, value: Tensor) -> Tensor:
        """[batch, channels, *positions, *kernel], a view."""
        for dim, (size, step, dilation) in enumerate(zip(self.kernel, self.step, self.dilation, strict=True), 2):
            value = value.unfold(dim, dilation * (size - 1) + 1, step)[..., ::dilation]
        return value


def _rows(value: Tensor, axis: int, which: Tensor, behind: int = 0) -> Tensor:
    """Positions `which` on all axes but `axis` (never the first) and the last `behind`: [rows, channels, *behind]."""
    axis %= value.ndim
    end = value.ndim - behind
    shape = [size for dim, size in enumerate(value.shape[:end]) if dim != axis]
    at = iter(torch.unravel_index(which, shape))
    return value[tuple(slice(None) if dim == axis else next(at) for dim in range(end))]


def patches(program: Program, node: fx.Node, weight: Tensor) -> Patches | None:
    """How the call of that node, whose weight that is, reads its input; None where that cannot be told."""
    if node.op == "call_module":
        module = program.module.get_submodule(str(node.target))
        if len(node.args) != 1 or node.kwargs:  # a transposed convolution may be told its output's size
            return None
        return _of_module(module)
    names = _FUNCTIONS.get(node.target)
    if names is None:
        return None
    if not names:
        return Patches(())
    given = {**dict(zip(names, node.args[3:], strict=False)), **node.kwargs}
    if any(isinstance(leaf, fx.Node) for leaf in torch.utils._pytree.tree_leaves([given.get(name) for name in names])):
        return None
    return _conv(tuple(weight.shape[2:]), given, "zeros", transposed=names is _TRANSPOSED)


def _of_module(module: nn.Module) -> Patches | None:
    if type(module) is nn.Linear:
        return Patches(())
    if not isinstance(module, nn.modules.conv._ConvNd):
        return None
    given = {name: getattr(module, name) for name in _TRANSPOSED}
    return _conv(tuple(module.kernel_size), given, module.padding_mode, transposed=module.transposed)


def _conv(kernel: tuple[int, ...], given: dict[str, Any], mode: str, transposed: bool) -> Patches:
    dims = len(kernel)
    stride, dilation = _each(given.get("stride", 1), dims), _each(given.get("dilation", 1), dims)
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    padding = given.get("padding", 0)
    if padding == "same":
        pads = [(span // 2, span - span // 2) for span in spans]
    else:
        pads = [(p, p) for p in _each(0 if padding == "valid" else padding, dims)]
    step, between = stride, (1,) * dims
    if transposed:
        step, between = between, step
        more = _each(given.get("output_padding", 0), dims)
        pads = [(span - p, span - p + e) for span, (p, _), e in zip(spans, pads, more, strict=True)]
    mode = "constant" if mode == "zeros" else mode
    return Patches(kernel, step, dilation, tuple(pads), between, int(given.get("groups", 1)), mode, transposed)


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values
