"""Rewriting: one generic index_select per binding, the modules' own attributes, and the size literals."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.effects import effects
from pagcp_ir.literals import Cutting, Index, literal_where_wrong, output_sizes
from pagcp_ir.program import Program
from pagcp_ir.rules import op_of
from pagcp_ir.values import propagate, shape_of
from specs.diagnostics import GraphError

__all__ = ["copy_with", "materialise"]


def materialise(
    program: Program, channels: ChannelGraph, keep: Keep, indices: Mapping[tuple[str, int], Index] | None = None
) -> Program:
    """The program without the units outside `keep`; `channels` must describe `program`, which stays as it is.

    `indices` overrides which positions of a (tensor, dim) are taken: the check uses it to take a wrong one.
    Raises GraphError G303 when a value of the cut program does not have the shape that its labels ask for.
    """
    replaced = _sliced(program, channels, keep, indices or {})
    module = copy_with(program.module, replaced)
    modules = dict(module.named_modules())
    _burn_in_scalars(module, channels, keep)
    per_channel = {layer.tensors[0] for layer in channels.layers if layer.per_channel}
    for name, child in modules.items():
        set_attributes(child, depthwise=f"{name}.weight" in per_channel)
    layers = {layer.node: layer for layer in channels.layers}
    cutting = Cutting(channels.values, keep, modules, layers)
    for node in list(module.graph.nodes):
        if node.op.startswith("call_"):
            sizes = op_of(node, modules).sizes
            if sizes is not None:
                sizes(cutting, node)
    expected = _expected_shapes(program, channels, keep)

    def settle_sizes(node: fx.Node) -> None:
        if node.name in expected and op_of(node, modules).sizes is output_sizes:
            literal_where_wrong(node, expected[node.name])

    propagate(module, [(v.shape, v.dtype) for v in _inputs(program)], settle_sizes)
    module.graph.eliminate_dead_code(effects(module))
    module.recompile()
    _check_shapes(module, expected)
    return Program(module, program.inputs, program.notes)


def copy_with(module: fx.GraphModule, replaced: Mapping[int, Tensor]) -> fx.GraphModule:
    """A copy that shares every tensor of `module` except those replaced (by id of the original)."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(t): replaced.get(id(t), t) for t in tensors}
    made: fx.GraphModule = copy.deepcopy(module, memo)
    return made


def _sliced(
    program: Program, channels: ChannelGraph, keep: Keep, indices: Mapping[tuple[str, int], Index]
) -> dict[int, Tensor]:
    tensors = program.tensors()
    cut: dict[str, Tensor] = {}
    for binding in channels.bindings:
        alive = keep[binding.units]
        if not alive.all():
            before = cut.get(binding.tensor, tensors[binding.tensor].detach())
            chosen = indices.get((binding.tensor, binding.dim), np.flatnonzero(alive))
            index = torch.from_numpy(chosen).to(before.device)
            cut[binding.tensor] = before.index_select(binding.dim, index)
    return {id(tensors[name]): _like(tensors[name], value) for name, value in cut.items()}


def _like(original: Tensor, value: Tensor) -> Tensor:
    if isinstance(original, nn.Parameter):
        return nn.Parameter(value, requires_grad=original.requires_grad)
    return value


def set_attributes(module: nn.Module, depthwise: bool) -> None:
    """What a module says of its own sizes follows its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        out_dim, in_dim = (1, 0) if module.transposed else (0, 1)
        if depthwise:
            multiplier = module.out_channels // module.in_channels
            module.groups = module.weight.shape[0] // (1 if module.transposed else multiplier)
        scale = {0: 1, 1: module.groups}
        module.out_channels = module.weight.shape[out_dim] * scale[out_dim]
        module.in_channels = module.weight.shape[in_dim] * scale[in_dim]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        known = module.weight if module.weight is not None else module.running_mean
        if known is not None:
            module.num_features = known.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def _burn_in_scalars(module: fx.GraphModule, channels: ChannelGraph, keep: Keep) -> None:
    """A channel count used as a value, not as a size, keeps its original number."""
    widths = {name: v for name, v in channels.values.items() if not keep[v.units].all()}
    tainted: set[fx.Node] = set()
    for node in module.graph.nodes:
        value = node.meta.get("value")
        if not isinstance(value, (int, float, torch.Size, tuple)) or node.op == "output":
            continue
        if _reads_width(node, widths) or any(n in tainted for n in node.all_input_nodes):
            tainted.add(node)
    for node in module.graph.nodes:
        if isinstance(node.meta.get("value"), Tensor) and op_of(node, dict(module.named_modules())).is_value:
            for source in node.all_input_nodes:
                if source in tainted:
                    node.replace_input_with(source, source.meta["value"])
    module.graph.eliminate_dead_code(effects(module))


def _reads_width(node: fx.Node, widths: Mapping[str, Any]) -> bool:
    """`x.size(1)`, or an element of `x.shape`, along the axis that is cut."""
    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        return _is_cut_axis(node.args[0], node.args[1], widths)
    if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem":
        shape = node.args[0]
        if isinstance(shape, fx.Node) and (shape.target == "size" or shape.args[1:2] == ("shape",)):
            return _is_cut_axis(shape.args[0], node.args[1], widths)
    return node.op == "call_method" and node.target in ("numel", "nelement")


def _is_cut_axis(tensor: Any, dim: Any, widths: Mapping[str, Any]) -> bool:
    if not isinstance(tensor, fx.Node) or tensor.name not in widths:
        return False
    if isinstance(dim, int):
        return bool(dim % tensor.meta["value"].ndim == widths[tensor.name].axis)
    return True


def _inputs(program: Program) -> list[Tensor]:
    return [n.meta["value"] for n in program.module.graph.nodes if n.op == "placeholder"]


def _expected_shapes(program: Program, channels: ChannelGraph, keep: Keep) -> dict[str, tuple[int, ...]]:
    expected = {}
    for node in program.module.graph.nodes:
        shape = shape_of(node.meta["value"]) if node.op != "output" else None
        if shape is None or node.op == "get_attr":
            continue
        value = channels.values.get(node.name)
        if value is not None:
            kept = int(keep[value.units].sum())
            shape = tuple(kept if d == value.axis else s for d, s in enumerate(shape))
        expected[node.name] = shape
    return expected


def _check_shapes(module: fx.GraphModule, expected: Mapping[str, tuple[int, ...]]) -> None:
    for node in module.graph.nodes:
        got, wanted = shape_of(node.meta.get("value")), expected.get(node.name)
        if wanted is not None and got != wanted:
            raise GraphError.one(
                "G303",
                f"`{node.name}` would have shape {list(got or ())} after the cut, its channels ask for {list(wanted)}",
                where=node.meta.get("where", ""),
                hint="protect the layers before it (model.protect), and report the network: this should not happen",
            )
