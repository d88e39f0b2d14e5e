"""Sizes and positions that a program reads: of which tensor, along which axis; which it holds as constants."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["is_index", "is_plain", "positions", "sizes_read"]


def sizes_read(node: fx.Node) -> list[tuple[fx.Node, int | None]]:
    """(tensor, axis) of the size that this node reads; None for a product over all axes."""
    source = node.args[0] if node.args else None
    if node.op == "call_method" and isinstance(source, fx.Node):
        if node.target == "size" and len(node.args) == 2 and isinstance(node.args[1], int):
            return [(source, node.args[1])]
        if node.target in ("numel", "nelement"):
            return [(source, None)]
    if node.target in (torch.numel,) and isinstance(source, fx.Node):
        return [(source, None)]
    if node.target is operator.getitem and isinstance(source, fx.Node) and isinstance(node.args[1], int):
        owner = source.args[0] if source.args else None
        whole = source.target == "size" or source.args[1:2] == ("shape",)
        if whole and isinstance(owner, fx.Node):
            return [(owner, node.args[1])]
    return []


def is_plain(value: Any) -> bool:
    """Numbers, strings, dtypes, devices, sizes, None, and containers of them."""
    if isinstance(value, (tuple, list, set)):
        return all(is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(is_plain(v) for v in value.values())
    kinds = (int, float, complex, bool, str, type(None), torch.dtype, torch.device, torch.layout, slice, range)
    return isinstance(value, (*kinds, torch.memory_format, type(Ellipsis)))


def is_index(value: Any) -> bool:
    """Whether this is a constant list of positions: an integer tensor of one axis that holds its data."""
    kinds = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return isinstance(value, Tensor) and not isinstance(value, FakeTensor) and value.ndim == 1 and value.dtype in kinds


def positions(index: Tensor) -> list[int]:
    """The positions that a constant index holds."""
    return [int(i) for i in index.tolist()]
