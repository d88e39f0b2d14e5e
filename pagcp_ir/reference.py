"""The reference of the check: the original graph at full width, interpreted with removed units masked.

Readers' weights are zero for removed units; where a unit ends in a sum of products without weights its producer is
zero instead. Normalisations whose statistics run over channels are computed on the kept channels alone, with their
parameters sliced here, independently of the rewriter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.copying import copy_with
from pagcp_ir.program import Program
from pagcp_ir.rules import op_of

__all__ = ["Reference", "masked"]


def masked(program: Program, channels: ChannelGraph, keep: Keep) -> fx.GraphModule:
    """The program with the tensors of removed units zeroed where that removes them; same widths."""
    tensors = program.tensors()
    zeroed: dict[str, Tensor] = {}
    for binding in channels.bindings:
        gone = ~keep[binding.units]
        if not binding.read:
            gone &= channels.contracted[binding.units]
        if gone.any():
            value = zeroed.get(binding.tensor)
            if value is None:
                value = tensors[binding.tensor].detach().clone()
            value.index_fill_(binding.dim, torch.from_numpy(np.flatnonzero(gone)).to(value.device), 0)
            zeroed[binding.tensor] = value
    replaced = {id(tensors[n]): _like(tensors[n], v) for n, v in zeroed.items()}
    return copy_with(program.module, replaced)


def _like(original: Tensor, value: Tensor) -> Tensor:
    return nn.Parameter(value, requires_grad=False) if isinstance(original, nn.Parameter) else value


class Reference(fx.Interpreter):
    """Runs a masked module; `statistics` tells whether any normalisation was computed on the kept channels alone."""

    def __init__(self, module: fx.GraphModule, channels: ChannelGraph, keep: Keep) -> None:
        super().__init__(module)
        self.channels, self.keep, self.statistics = channels, keep, False
        self.named = dict(module.named_modules(remove_duplicate=False))

    def __call__(self, *inputs: Tensor) -> Any:
        return self.run(*inputs)

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("call_module", "call_function") and op_of(n, self.named).statistics:
            found = self._on_kept_channels(n)
            if found is not None:
                self.statistics = True
                return found
        return super().run_node(n)

    def _on_kept_channels(self, node: fx.Node) -> Tensor | None:
        value = self.channels.values.get(node.name)
        if value is None or self.keep[value.units].all():
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        x: Tensor = args[0] if args else kwargs["input"]
        call = self._call(node, args[1:], kwargs)
        shape = tuple(call.get("shape", ()))
        if shape and tuple(x.shape[-len(shape) :]) != shape:
            return None  # another image size, at which the op itself says that it does not run
        kept = torch.from_numpy(np.flatnonzero(self.keep[value.units])).to(x.device)
        made = _normalised(call, x, value.axis, kept)
        return None if made is None else torch.zeros_like(x).index_copy(value.axis, kept, made)

    def _call(self, node: fx.Node, rest: Sequence[Any], kwargs: Any) -> dict[str, Any]:
        """What the call normalises over and with: {"shape" or "groups", "weight", "bias", "eps"}."""
        module = self.named.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.LayerNorm):
            return {"shape": module.normalized_shape, "weight": module.weight, "bias": module.bias, "eps": module.eps}
        if isinstance(module, nn.GroupNorm):
            return {"groups": module.num_groups, "weight": module.weight, "bias": module.bias, "eps": module.eps}
        first = "normalized_shape" if node.target is F.layer_norm else "num_groups"
        given = {**dict(zip((first, "weight", "bias", "eps"), rest, strict=False)), **kwargs}
        name = "shape" if first == "normalized_shape" else "groups"
        return {name: given[first], **{k: given.get(k) for k in ("weight", "bias")}, "eps": given.get("eps", 1e-5)}


def _normalised(call: dict[str, Any], whole: Tensor, axis: int, kept: Tensor) -> Tensor | None:
    """The normalisation of the kept channels alone; None where the statistics do not run over channels.

    Channels are normalised with those of their own group in the original, however many of them are left.
    """
    x = whole.index_select(axis, kept)

    def slice_of(tensor: Tensor | None, dim: int) -> Tensor | None:
        return None if tensor is None else tensor.index_select(dim, kept)

    if "shape" in call:
        position = axis - (x.ndim - len(call["shape"]))
        if position < 0:
            return None
        weight, bias = slice_of(call["weight"], position), slice_of(call["bias"], position)
        return F.layer_norm(x, x.shape[x.ndim - len(call["shape"]) :], weight, bias, call["eps"])
    left = torch.bincount(kept // (whole.shape[1] // call["groups"]))
    parts = torch.split(x, left[left > 0].tolist(), 1)
    shape = (1, -1, *[1] * (x.ndim - 2))
    made = torch.cat([F.group_norm(part, 1, eps=call["eps"]) for part in parts], 1)
    weight, bias = slice_of(call["weight"], 0), slice_of(call["bias"], 0)
    made = made if weight is None else made * weight.view(shape)
    return made if bias is None else made + bias.view(shape)
