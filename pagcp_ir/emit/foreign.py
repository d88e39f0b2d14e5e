"""What a network calls that does not come with torch: said where an artifact cannot hold it, or needs it to load."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram

from pagcp_ir.emit.functions import function_name
from pagcp_ir.emit.literals import Unprintable
from pagcp_ir.program import Program

__all__ = ["foreign_calls", "foreign_operators"]


def foreign_calls(program: Program) -> str:
    """ "the network calls code of its own: `sort` (net.py:12)": a hint for what torch cannot follow; else ""."""
    found = list(dict.fromkeys(_calls(program.module)))
    return f"the network calls code of its own: {', '.join(found)}" if found else ""


def _calls(module: fx.GraphModule) -> Iterator[str]:
    for node in module.graph.nodes:
        name = ""
        if node.op == "call_module":
            kind = type(module.get_submodule(str(node.target)))
            name = "" if kind.__module__.startswith("torch.") else f"{node.target}: {kind.__name__}"
        elif node.op == "call_function":
            try:
                function_name(node.target)
            except Unprintable:
                name = str(getattr(node.target, "__name__", node.target))
        if name:
            where = str(node.meta.get("where", ""))
            yield f"`{name}`" + (f" ({where})" if where else "")


def foreign_operators(exported: ExportedProgram) -> tuple[str, ...]:
    """The registered operators of an exported graph that torch alone does not know: "shop::sharpen"."""
    found = [str(n.target).rsplit(".", 1)[0] for n in exported.graph.nodes if isinstance(n.target, OpOverload)]
    names = [name.replace(".", "::", 1) for name in dict.fromkeys(found)]
    return tuple(name for name in names if not name.startswith(("aten::", "prims::")))
