"""The statements of `forward`: a value that is used once, right after it is computed, is written inside its reader.

Python evaluates a statement's operands in the order in which the graph computes them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx
from torch.nn.modules.dropout import _DropoutNd

from pagcp_ir.emit.expressions import is_size, value_of
from pagcp_ir.emit.functions import BINARY
from pagcp_ir.emit.structure import Run

__all__ = ["Statement", "plan_forward"]

MAX_CALLS = 4
"""Operations in one statement: `F.relu(self.norm(self.conv(x)) + y)`; arithmetic of sizes does not count."""
MAX_UNPACKED = 4


@dataclass(frozen=True)
class Statement:
    """One line of `forward`."""

    node: fx.Node
    """The outermost operation."""
    targets: tuple[fx.Node | None, ...]
    """The values that get a variable here; None is written `_`."""
    reads: tuple[fx.Node, ...]
    """The variables that it mentions, in order."""
    inside: tuple[fx.Node, ...]
    """The operations written in place, innermost first, then `node`."""


def plan_forward(
    module: fx.GraphModule, runs: Mapping[str, Run], apart: Collection[fx.Node] = ()
) -> tuple[Statement, ...]:
    """The statements in order, the return last. `runs`: the calls that one container stands for.

    `apart`: nodes that are never written in place.
    """
    return tuple(_InPlace(module, runs, apart).statements())


def _trivial(node: fx.Node) -> bool:
    """Pure and cheap, never worth a variable: parameters, `x.shape`, `x.shape[1]`, an item of a tuple."""
    if node.op == "get_attr":
        return True
    if node.op == "call_method":
        return str(node.target) in ("size", "dim") and not node.kwargs
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return isinstance(value_of(node.args[0]), (tuple, list)) and isinstance(node.args[1], int)
    return node.target is getattr


class _InPlace:
    """Which nodes are written inside their reader."""

    def __init__(self, module: fx.GraphModule, runs: Mapping[str, Run], apart: Collection[fx.Node]) -> None:
        self.module, self.apart = module, apart
        nodes = list(module.graph.nodes)
        self.output = next(n for n in nodes if n.op == "output")
        self.inputs = {run.nodes[-1]: run.argument for run in runs.values()}
        self.unpacked = {n: items for n in nodes if (items := _unpacked(n))}
        self.items = {i for n in self.unpacked for i in n.users}
        hidden = {n for run in runs.values() for n in run.nodes[:-1]} | self.items
        ends = ("placeholder", "output")
        self.lines = [n for n in nodes if n.op not in ends and n not in hidden and not _trivial(n)]
        self.inlined: set[fx.Node] = set()
        self._absorb_all()

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that its expression mentions, in order of evaluation."""
        if node not in self.inputs:
            return node.all_input_nodes
        found: list[fx.Node] = []
        fx.node.map_arg(self.inputs[node], found.append)
        return found

    def variables(self, node: fx.Node) -> Iterator[fx.Node]:
        """The variables that the expression of `node` mentions, in order."""
        for operand in self.operands(node):
            if operand in self.inlined or (_trivial(operand) and operand not in self.items):
                yield from self.variables(operand)
            else:
                yield operand

    def parts(self, node: fx.Node) -> Iterator[fx.Node]:
        """The operations written inside `node`, innermost first, then `node`."""
        for operand in self.operands(node):
            if operand in self.inlined or (_trivial(operand) and operand not in self.items):
                yield from self.parts(operand)
        if not _trivial(node):
            yield node

    def statements(self) -> Iterator[Statement]:
        """What remains, in the order of the graph."""
        for node in [*self.lines, self.output]:
            if node in self.inlined:
                continue
            silent = node.target is operator.setitem or not node.users
            targets = self.unpacked.get(node, () if silent else (node,))
            reads = tuple(dict.fromkeys(self.variables(node)))
            yield Statement(node, targets, reads, tuple(self.parts(node)))

    def _absorb_all(self) -> None:
        position = len(self.lines) - 1
        if isinstance(self.output.args[0], fx.Node):
            position, _ = self._absorb(self.output, position, MAX_CALLS)
        while position >= 0:
            node = self.lines[position]
            budget = 0 if node.target is operator.setitem else MAX_CALLS - 1
            position, _ = self._absorb(node, position - 1, budget)

    def _absorb(self, node: fx.Node, position: int, budget: int) -> tuple[int, int]:
        """Write into `node` those operands that are computed right before it, last one first."""
        for operand in reversed(self.operands(node)):
            if _trivial(operand) and operand not in self.items:
                if len(operand.users) == 1:
                    position, budget = self._absorb(operand, position, budget)
                continue
            ready = position >= 0 and self.lines[position] is operand
            cost = 0 if is_size(operand) else 1
            if ready and budget >= cost and self._may_absorb(node, operand):
                self.inlined.add(operand)
                position, budget = self._absorb(operand, position - 1, budget - cost)
        return position, budget

    def _may_absorb(self, node: fx.Node, operand: fx.Node) -> bool:
        if operand in self.unpacked or operand in self.apart or self._mentions(operand) > 1:
            return False
        if node.args and isinstance(node.args[0], (list, tuple)) and not self._short(operand):
            return False
        # a convolution begins a statement: what activates or normalises its input ends the one before
        return not (self._weighted(node) and self._keeps_shape(operand))

    def _short(self, node: fx.Node) -> bool:
        """Fit for a list, as torch.cat takes: one call of variables, or a sum and the like of such calls."""
        first = [o for o in self.operands(node) if self._goes_on(o)]
        return not first or (node.target in BINARY and not any(map(self._goes_on, self.operands(first[0]))))

    def _goes_on(self, node: fx.Node) -> bool:
        """It would go on inside its only reader."""
        return node in self.lines and self._mentions(node) == 1 and not is_size(node)

    def _weighted(self, node: fx.Node) -> bool:
        if node.op != "call_module":
            return False
        weight = getattr(self.module.get_submodule(str(node.target)), "weight", None)
        return isinstance(weight, Tensor) and weight.dim() > 1

    def _keeps_shape(self, node: fx.Node) -> bool:
        if node.op == "call_module" and isinstance(self.module.get_submodule(str(node.target)), _DropoutNd):
            return False
        values = [value_of(node), *(value_of(n) for n in self.operands(node)[:1])]
        return len({tuple(v.shape) for v in values if isinstance(v, Tensor)}) == 1

    def _mentions(self, node: fx.Node) -> int:
        count = 0

        def add(found: fx.Node) -> fx.Node:
            nonlocal count
            count += found is node
            return found

        for user in node.users:
            fx.node.map_arg((user.args, user.kwargs), add)
        return count


def _unpacked(node: fx.Node) -> tuple[fx.Node | None, ...]:
    """The items of a tuple of tensors of which all is taken apart by number: `a, b = x.chunk(2, 1)`."""
    value = value_of(node)
    if not isinstance(value, (tuple, list)) or not 2 <= len(value) <= MAX_UNPACKED or _trivial(node):
        return ()
    if not all(isinstance(v, Tensor) for v in value) or node.op == "placeholder":
        return ()
    items: list[fx.Node | None] = [None] * len(value)
    for user in node.users:
        if user.target is not operator.getitem or not isinstance(user.args[1], int) or user.args[0] is not node:
            return ()
        if items[user.args[1]] is not None:
            return ()
        items[user.args[1]] = user
    return tuple(items)
