"""The text form of a program: one value a line, its shape, its op, its arguments; stable across machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from specs.graph_diff import Edge, GraphNode, GraphText

if TYPE_CHECKING:
    from pagcp_ir.program import Program

__all__ = ["op_name", "program_graph", "program_text", "type_text"]

_DTYPES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.bool: "bool",
}


def program_text(program: Program) -> str:
    """`name: f32[2, 16, 8, 8] = conv1(x)`, one line per node; the batch is the tracing batch, 2."""
    modules = dict(program.module.named_modules())
    lines = [_line(node, modules) for node in program.module.graph.nodes]
    return "\n".join(lines) + "\n"


def type_text(value: Any) -> str:
    """`f32[2, 16]` for a tensor, the value itself for sizes, a bracketed list for containers."""
    if isinstance(value, Tensor):
        kind = _DTYPES.get(value.dtype, str(value.dtype).removeprefix("torch."))
        return f"{kind}{[int(s) for s in value.shape]}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {type_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(type_text(v) for v in value) + ")"
    return type(value).__name__


def op_name(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """What the node does, in words that a person would use."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        extra = module.extra_repr()
        return f"{node.target}: {type(module).__name__}" + (f"({extra})" if extra else "")
    if node.op == "call_method":
        return f".{node.target}"
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return f"{node.op} {node.target}"


def _line(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    values = ", ".join([_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()])
    if node.op == "output":
        return f"return {values}"
    if node.op == "placeholder":
        return f"{node.name}: {type_text(node.meta['value'])} = input"
    if node.op == "get_attr":
        return f"{node.name}: {type_text(node.meta['value'])} = self.{node.target}"
    return f"{node.name}: {type_text(node.meta['value'])} = {op_name(node, modules)}({values})"


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: {_argument(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inside = ", ".join(_argument(v) for v in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    if isinstance(value, slice):
        parts = ["" if p is None else _argument(p) for p in (value.start, value.stop)]
        return ":".join(parts) + (f":{_argument(value.step)}" if value.step is not None else "")
    return repr(value)


def program_graph(program: Program, title: str) -> GraphText:
    """The program for `graph_diff`: what has tensors is matched by its name, inputs and outputs by their places."""
    modules = dict(program.module.named_modules())
    nodes: list[GraphNode] = []
    inputs = 0
    for node in program.module.graph.nodes:
        edges = tuple(_edges(node.args)) + tuple(e for k, v in node.kwargs.items() for e in _edges(v, f"{k}="))
        if node.op == "output":
            nodes += [GraphNode("", e.type, "return", (e,), f"return {n}") for n, e in enumerate(edges)]
            continue
        key, op = op_name(node, modules).lstrip("."), op_name(node, modules)
        if node.op == "placeholder":
            key, op = f"input {inputs}", "input"
            inputs += 1
        elif node.op == "get_attr":
            key = op = f"self.{node.target}"
        elif node.op == "call_module":
            module = modules[str(node.target)]
            named = next(module.parameters(), None) is not None or next(module.buffers(), None) is not None
            if named:
                key = str(node.target)
            else:  # an activation has no name of its own, be it a module or a function
                key = type(module).__name__.lower()
                op = f"{key}({module.extra_repr()})" if module.extra_repr() else key
        nodes.append(GraphNode(node.name, type_text(node.meta["value"]), op, edges, key))
    return GraphText(title, tuple(nodes))


def _edges(value: Any, label: str = "") -> Iterator[Edge]:
    """The values in an argument, those in lists one by one."""
    if isinstance(value, fx.Node):
        yield Edge(value.name, type_text(value.meta["value"]), value.name, label)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _edges(item, label)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _edges(item, f"{label}{key}=")
    else:
        yield Edge(_argument(value), "", None, label)
