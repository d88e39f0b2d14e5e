"""One node of an fx graph as a Python expression; its operands are variables or expressions of their own."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from pagcp_ir.emit.functions import BINARY, IN_PLACE, UNARY, defaults, function_name
from pagcp_ir.emit.layout import Bracket, Doc, call, flat
from pagcp_ir.emit.literals import Unprintable, literal

__all__ = ["Expressions", "is_size", "value_of"]

ATOM = 20
_POWER = BINARY[operator.pow][1]
_SIMPLE = re.compile(r"-?([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|\d+(\.\d+)?)")
"""What the usual formatters write without spaces around `**`."""


def value_of(node: fx.Node) -> Any:
    """What the node stands for (a fake tensor, a size, a container), None where nobody said."""
    return node.meta.get("value")


def is_size(node: fx.Node) -> bool:
    """The node is an int, a shape or another plain Python value."""
    return isinstance(value_of(node), (int, float, tuple, list)) and not _holds_tensor(value_of(node))


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_tensor(v) for v in value)
    return isinstance(value, Tensor)


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and not isinstance(value, (fx.Node, Tensor)) and bool(value == default)


@dataclass
class Expressions:
    """Renders nodes. `names` holds the variables; a node without one is rendered in place.

    `path` turns a module or tensor path into source text; `folded` maps the last call of a run of modules that
    is printed as one nn.Sequential to that container's path and the run's input.
    """

    path: Callable[[str], str]
    folded: Mapping[fx.Node, tuple[str, Any]]
    names: dict[fx.Node, str] = field(default_factory=dict)

    def value(self, value: Any, tightness: int = 0) -> Doc:
        """An argument: a node, a container, a constant; in parentheses where it binds less than `tightness`."""
        if isinstance(value, fx.Node):
            doc, binds = self._operand(value)
            return doc if binds >= tightness else ("(", doc, ")")
        if isinstance(value, Mapping):
            items = tuple((literal(k), ": ", self.value(v)) for k, v in value.items())
            return Bracket("{", items, "}")
        if isinstance(value, tuple):
            return Bracket("(", tuple(self.value(v) for v in value), ")", is_tuple=True)
        if isinstance(value, list):
            return Bracket("[", tuple(self.value(v) for v in value), "]")
        if isinstance(value, slice):
            return call("slice", [self.value(v) for v in (value.start, value.stop, value.step)])
        doc = literal(value)
        negative = isinstance(value, (int, float)) and isinstance(doc, str) and doc.startswith("-")
        return ("(", doc, ")") if negative and tightness >= _POWER else doc

    def node(self, node: fx.Node) -> tuple[Doc, int]:
        """The node's own expression and how tightly it binds. Raises Unprintable with the node's source line."""
        try:
            return self._expression(node)
        except Unprintable as reason:
            reason.where = reason.where or str(node.meta.get("where", ""))
            raise

    def _expression(self, node: fx.Node) -> tuple[Doc, int]:
        if node in self.folded:
            container, argument = self.folded[node]
            return call(self.path(container), [self.value(argument)]), ATOM
        if node.op == "get_attr":
            return self.path(str(node.target)), ATOM
        if node.op == "call_module":
            return call(self.path(str(node.target)), self._arguments(node.args, node.kwargs)), ATOM
        if node.op == "call_method":
            return self._method(str(node.target), node.args, node.kwargs), ATOM
        if node.op == "call_function":
            return self._function(node)
        raise Unprintable(f"a graph node of kind {node.op}")

    def _operand(self, node: fx.Node) -> tuple[Doc, int]:
        return (self.names[node], ATOM) if node in self.names else self.node(node)

    def _arguments(self, args: Any, kwargs: Mapping[str, Any]) -> list[Doc]:
        return [self.value(a) for a in args] + [(f"{k}=", self.value(v)) for k, v in kwargs.items()]

    def _method(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> Doc:
        return call((self.value(args[0], ATOM), f".{name}"), self._arguments(args[1:], kwargs))

    def _function(self, node: fx.Node) -> tuple[Doc, int]:
        target: Any = node.target
        args, plain = node.args, not node.kwargs
        if target is getattr and plain and len(args) == 2 and str(args[1]).isidentifier():
            return (self.value(args[0], ATOM), f".{args[1]}"), ATOM
        if target is operator.getitem and plain:
            return (self.value(args[0], ATOM), "[", self._index(args[1]), "]"), ATOM
        if target is operator.setitem and plain:
            return (self.value(args[0], ATOM), "[", self._index(args[1]), "] = ", self.value(args[2])), 0
        if target in IN_PLACE and plain and len(args) == 2 and isinstance(args[0], fx.Node):
            method, out_of_place = IN_PLACE[target]
            if isinstance(value_of(args[0]), Tensor):
                return self._method(method, args, {}), ATOM
            if is_size(args[0]):
                target = out_of_place
        if target in BINARY and plain and len(args) == 2:
            return self._binary(*BINARY[target], *args)
        if target in UNARY and plain and len(args) == 1:
            sign, binds = UNARY[target]
            power = isinstance(args[0], fx.Node) and args[0].target is operator.pow and args[0] not in self.names
            return (sign, self.value(args[0], ATOM if power else binds)), binds
        name, usual = function_name(target), defaults(target)
        kwargs = {k: v for k, v in node.kwargs.items() if k not in usual or not _same(v, usual[k])}
        return call(name, self._arguments(args, kwargs)), ATOM

    def _binary(self, sign: str, binds: int, left: Any, right: Any) -> tuple[Doc, int]:
        power, compares = sign == "**", binds == BINARY[operator.lt][1]
        on_left = binds + (1 if power or compares else 0)  # a ** b ** c groups right, a < b < c chains
        on_right = binds if power else binds + 1
        first, second = self.value(left, on_left), self.value(right, on_right)
        close = power and _SIMPLE.fullmatch(flat(first)) and _SIMPLE.fullmatch(flat(second))
        return (first, sign if close else f" {sign} ", second), binds

    def _index(self, index: Any) -> Doc:
        if isinstance(index, tuple) and index:
            parts: list[Doc] = []
            for item in index:
                parts += [self._subscript(item), ", "]
            return tuple(parts[:-1]) if len(index) > 1 else (parts[0], ",")
        return self._subscript(index)

    def _subscript(self, item: Any) -> Doc:
        if not isinstance(item, slice):
            return self.value(item)
        start, stop = ("" if p is None else self.value(p) for p in (item.start, item.stop))
        step: Doc = "" if item.step is None else (":", self.value(item.step))
        return (start, ":", stop, step)
