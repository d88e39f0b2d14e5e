"""Rewriting: one generic index_select per binding, the modules' own attributes, and the size literals."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pagcp_ir.channels import ChannelGraph, Keep, ValueAxis
from pagcp_ir.copying import assembled, copied
from pagcp_ir.effects import effects
from pagcp_ir.literals import Cutting, Index, conv_groups, groups_where_wrong, literal_where_wrong, output_sizes
from pagcp_ir.program import Program
from pagcp_ir.rules import op_of
from pagcp_ir.sizes import sizes_read
from pagcp_ir.values import propagate, resize, shape_of
from specs.diagnostics import GraphError

__all__ = ["materialise", "require_shapes"]


_SHOULD_NOT = "protect the layers before it (model.protect), and report the network: this should not happen"


def materialise(
    program: Program, channels: ChannelGraph, keep: Keep, indices: Mapping[tuple[str, int], Index] | None = None
) -> Program:
    """The program without the units outside `keep`; `channels` must describe `program`, which stays as it is.

    `indices` overrides which positions of a (tensor, dim) are taken: the check uses it to take a wrong one.
    The values on its nodes have the shapes that their labels ask for: nothing is run (`require_shapes` does that).
    """
    replaced = _sliced(program, channels, keep, indices or {})
    root, graph = copied(program.module, replaced)
    modules = dict(root.named_modules(remove_duplicate=False))
    _burn_in_scalars(root, graph, channels, keep)
    calls = {layer.node for layer in channels.layers if layer.per_channel}
    depthwise = {id(modules[str(n.target)]) for n in graph.nodes if n.op == "call_module" and n.name in calls}
    for child in root.modules():
        set_attributes(child, depthwise=id(child) in depthwise)
    cutting = Cutting(channels.values, keep, modules, {layer.node: layer for layer in channels.layers})
    ops = {node: op_of(node, modules) for node in graph.nodes if node.op.startswith("call_")}
    for node, op in ops.items():
        if op.sizes is not None:
            op.sizes(cutting, node)
    expected = _expected_shapes(program, channels, keep)

    def settle_sizes(node: fx.Node) -> None:
        sizes = ops[node].sizes if node in ops else None
        if sizes is output_sizes and node.name in expected:
            literal_where_wrong(node, expected[node.name])
        elif sizes is conv_groups:
            groups_where_wrong(cutting, node)

    resize(root, graph, expected, settle_sizes)
    graph.eliminate_dead_code(effects(root))
    return replace(program, module=assembled(root, graph, program.module))


def require_shapes(program: Program, channels: ChannelGraph, keep: Keep, cut: Program) -> None:
    """Raise GraphError G303, naming the value, unless the values of a cut program have the shapes of their labels."""
    module = cut.copy()
    try:
        propagate(module, [(v.shape, v.dtype) for v in _inputs(program)])
    except RuntimeError as error:
        told = str(error).splitlines()[0]
        raise GraphError.one("G303", f"the cut network does not run: {told}", hint=_SHOULD_NOT) from error
    _check_shapes(module, _expected_shapes(program, channels, keep))


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
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def _burn_in_scalars(root: nn.Module, graph: fx.Graph, channels: ChannelGraph, keep: Keep) -> None:
    """A channel count used as a value, not as a size, keeps its original number; other sizes stay as they are."""
    cut = {name: v for name, v in channels.values.items() if not keep[v.units].all()}
    modules, burn = dict(root.named_modules(remove_duplicate=False)), _Burn(graph, cut, keep)
    for node in list(graph.nodes):
        if isinstance(node.meta.get("value"), Tensor) and node.op != "output" and op_of(node, modules).is_value:
            for source in node.all_input_nodes:
                if burn.reads_width(source):
                    node.replace_input_with(source, burn.original(source))
    graph.eliminate_dead_code(effects(root))


class _Burn:
    """Rebuilds scalar expressions with the original channel counts in place of those after the cut."""

    def __init__(self, graph: fx.Graph, cut: Mapping[str, ValueAxis], keep: Keep) -> None:
        self.graph, self.cut, self.keep = graph, cut, keep
        self.made: dict[fx.Node, Any] = {}

    def width(self, node: fx.Node) -> ValueAxis | None:
        """The channel axis whose size this node reads, None where it reads none that is cut."""
        for tensor, dim in sizes_read(node):
            value = self.cut.get(tensor.name)
            if value is not None and (dim is None or dim % tensor.meta["value"].ndim == value.axis):
                return value
        return None

    def reads_width(self, node: fx.Node) -> bool:
        """Whether this number depends on a channel count that changes."""
        if isinstance(node.meta.get("value"), Tensor):
            return False
        return self.width(node) is not None or any(self.reads_width(n) for n in node.all_input_nodes)

    def original(self, node: fx.Node) -> Any:
        """The number that the node had before the cut, as a constant or as nodes."""
        if node not in self.made:
            self.made[node] = self._original(node)
        return self.made[node]

    def _original(self, node: fx.Node) -> Any:
        if not self.reads_width(node):
            return node
        if not any(self._is_free(n) for n in _leaves(node)):
            return node.meta["value"]  # nothing but channel counts in it: a constant
        value = self.width(node)
        with self.graph.inserting_after(node):
            if value is None:
                new = self.graph.node_copy(node, self.original)
            else:  # the size after the cut, times original / kept
                scaled = self.graph.call_function(operator.mul, (node, len(value.units)))
                with self.graph.inserting_after(scaled):
                    new = self.graph.call_function(operator.floordiv, (scaled, int(self.keep[value.units].sum())))
        return new

    def _is_free(self, leaf: fx.Node) -> bool:
        """Whether a size that is read may differ from call to call: any but a plain channel count."""
        value = self.width(leaf)
        return value is None or len(set(value.units.tolist())) != len(value.units) or sizes_read(leaf)[0][1] is None


def _leaves(node: fx.Node) -> list[fx.Node]:
    """The sizes that a scalar expression is made of."""
    if sizes_read(node) or not node.all_input_nodes:
        return [node]
    return [leaf for n in node.all_input_nodes for leaf in _leaves(n)]


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
                hint=_SHOULD_NOT,
            )
