"""From a torch.export program to an fx graph as torch.fx would have traced it, or nearly so.

Parameters keep their names, calls are functions and methods that the op table knows, the batch size is read from the
input, and what module the tensors of a call belonged to is called again. Regions that only switch gradients or
autocasting off are written out.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from pagcp_ir.aten import to_torch
from pagcp_ir.aten_special import special_to_torch
from pagcp_ir.effects import effects
from pagcp_ir.program import TRACE_BATCH, TensorSpec
from pagcp_ir.quiet import quiet, reason_of
from pagcp_ir.restoring import call_of, restore
from pagcp_ir.source import outside
from specs.diagnostics import TraceError

__all__ = ["export", "graph_module_of", "tensors_of"]

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_DATA = ("aten.item.", "aten._local_scalar_dense.", "aten.nonzero.", "aten.masked_select.", "aten.unique")


def export(root: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[ExportedProgram, str]:
    """`root`, in eval mode, exported at batch 2 with a free batch size; other sizes become constants.

    The text says why the batch size is fixed, "" when it is free. Raises whatever torch.export raises.
    """
    generator = torch.Generator().manual_seed(0)
    example = tuple(spec.example(TRACE_BATCH, generator) for spec in inputs)
    with quiet(), torch.enable_grad():
        try:
            return torch.export.export(root, example, dynamic_shapes=_free(root, example), strict=False), ""
        except Exception as error:  # noqa: BLE001 (torch.export raises nearly anything)
            fixed = error
        again = tuple(x.clone() for x in example)  # the marks of a free size stay on the tensors
        return torch.export.export(root, again, strict=False), _why_fixed(fixed)


def _free(root: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """The batch axis of every input, in the form of forward's own signature."""
    shapes: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in example:
        shapes[tensor] = {0: Dim.DYNAMIC}
    return shapes.dynamic_shapes(root, example)


def _why_fixed(error: Exception) -> str:
    if "Constraints violated" in str(error):
        return "forward makes a number of it"
    return reason_of(error)


def graph_module_of(program: ExportedProgram, name: str, original: nn.Module | None = None) -> fx.GraphModule:
    """The program as a graph module of that class name, on the program's own tensors, in eval mode.

    `original`: the model that was exported, whose modules are called again where the program came from it.
    Raises TraceError T201 where the graph reads data, T202 where it calls other graphs.
    """
    source = program.module(check_guards=False)
    graph = fx.Graph()
    values = _Copy(source, graph).outputs([])
    output = pytree.tree_unflatten(values, program.call_spec.out_spec)
    graph.output(_plain(output))
    if original is not None:
        restore(source, graph.nodes, original)
    special_to_torch(graph)
    to_torch(graph)
    for node in graph.nodes:
        if _is_effect(node):
            told = f"the exported graph writes in place by `{node.target}`, which is not known"
            raise TraceError.one("T202", told, where=node.meta["where"])
    module = fx.GraphModule(source, graph, class_name=name).eval()
    module.graph.eliminate_dead_code(effects(module))
    return module


def tensors_of(program: ExportedProgram) -> dict[str, Tensor]:
    """All tensors by all their names, also those that nothing reads."""
    return {n: t for n, t in {**program.state_dict, **program.constants}.items() if isinstance(t, Tensor)}


class _Copy:
    """Copies a graph node by node into another, with the regions inside it; `values`: what each node became."""

    def __init__(self, source: fx.GraphModule, graph: fx.Graph, prefix: str = "") -> None:
        self.source, self.graph, self.prefix = source, graph, prefix
        self.values: dict[fx.Node, Any] = {}

    def outputs(self, operands: Sequence[Any]) -> list[Any]:
        """Copy all; `operands` are the inputs of a region. Returns the flat outputs."""
        given = iter(operands)
        for node in self.source.graph.nodes:
            if node.op == "output":
                return pytree.tree_leaves(self._arguments(node.args), is_leaf=lambda v: v is None)
            if node.op == "placeholder" and self.prefix:
                self.values[node] = next(given)
            elif node.users or node.op == "placeholder" or _is_effect(node):
                self.values[node] = self._copied(node)
        return []

    def _copied(self, node: fx.Node) -> Any:
        if isinstance(node.target, HigherOrderOperator):
            return self._region(node)
        if node.op == "get_attr" and isinstance(_attribute(self.source, str(node.target)), fx.GraphModule):
            return node
        if node.target is operator.getitem and isinstance(self.values[node.args[0]], list):  # type: ignore[index]
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        _refuse_data(node)
        made = self.graph.node_copy(node, lambda n: self.values[n])
        if node.op == "get_attr" and self.prefix:
            made.target = f"{self.prefix}.{node.target}"
        made.meta = {"val": node.meta.get("val"), "where": _where(node), "call": call_of(node)}
        return made

    def _arguments(self, value: Any) -> Any:
        return fx.node.map_arg(value, lambda n: self.values[n])

    def _region(self, node: fx.Node) -> list[Any]:
        """The outputs of a graph that is called with gradients or autocasting switched off."""
        name, args = str(node.target), list(node.args)
        at = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}.get(name, 0)
        region = args[at] if at else None
        if not isinstance(region, fx.Node) or (at == 4 and args[2]):
            raise TraceError.one("T202", f"the exported graph calls {name}, which cannot be cut", where=_where(node))
        path = f"{self.prefix}.{region.target}" if self.prefix else str(region.target)
        inner = _Copy(_attribute(self.source, str(region.target)), self.graph, path)
        return inner.outputs([self._arguments(a) for a in args[at + 1 :]])


def _attribute(module: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _is_effect(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _refuse_data(node: fx.Node) -> None:
    if str(node.target).startswith(_DATA):
        raise TraceError.one(
            "T201",
            f"the control flow depends on data: `{node.target}` reads the values of a tensor",
            where=_where(node),
            hint="compute both sides and select with torch.where, or move the branch out of forward",
        )


def _where(node: fx.Node) -> str:
    """ "model.py:12", the last frame of the user's in the trace that torch.export leaves on a node.

    In a file the trace may come from another machine, with torch elsewhere.
    """
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    frames = [(f, line) for f, line in frames if not re.search(r"(^|-packages[/\\\\])torch[/\\\\]", f)]
    return next((place for file, line in reversed(frames) if (place := outside(file, int(line)))), "")


def _plain(output: Any) -> Any:
    """Containers that an fx graph can return: any mapping as a dict, other classes as they are."""
    if isinstance(output, Mapping):
        return {k: _plain(v) for k, v in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_plain(v) for v in output))
    if isinstance(output, (tuple, list)):
        return type(output)(_plain(v) for v in output)
    if output is None or isinstance(output, (fx.Node, int, float, bool, str)):
        return output
    raise TraceError.one("T202", f"the exported graph returns a {type(output).__name__}, not tensors in containers")
