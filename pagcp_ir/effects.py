"""Which nodes write into their operand: they stay even when nobody reads what they return."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn

__all__ = ["effects", "writes_in_place"]

_OPERATORS = frozenset(
    {
        *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.ipow),
        *(operator.imod, operator.iand, operator.ior, operator.ixor, operator.setitem),
    }
)


def writes_in_place(node: fx.Node, module: Any = None) -> bool:
    """Whether the call changes its first argument; `module`: what a call_module node calls."""
    if node.op == "call_module":
        return bool(getattr(module, "inplace", False))
    if node.kwargs.get("inplace") is True or node.kwargs.get("out") is not None or node.target in _OPERATORS:
        return True
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return (name.endswith("_") and not name.startswith("__")) or name == "__setitem__"


def effects(module: nn.Module) -> Callable[[fx.Node], bool]:
    """The test that dead code elimination needs: which nodes do something besides returning a value."""
    modules = dict(module.named_modules(remove_duplicate=False))

    def impure(node: fx.Node) -> bool:
        if node.op in ("placeholder", "output"):
            return True
        return node.op.startswith("call_") and writes_in_place(node, modules.get(str(node.target)))

    return impure
