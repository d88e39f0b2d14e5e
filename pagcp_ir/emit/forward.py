"""The statements of `forward`: which nodes are written in place, and what the variables are called.

A value that is used once, right after it is computed, is written inside its reader (evaluation order stays that of the
graph). A statement takes over the variable of an operand that it is the last to use, as `x = self.norm(x)` does.
"""

from __future__ import annotations

import builtins
import keyword
import operator
import os.path
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from pagcp_ir.emit.expressions import is_size, value_of
from pagcp_ir.emit.structure import Run

__all__ = ["Forward", "Statement", "plan_forward"]

MAX_CALLS = 3
"""Operations in one statement: `F.relu(self.norm(self.conv(x)))`."""
MAX_UNPACKED = 4
_RESERVED = {*keyword.kwlist, *dir(builtins), "self", "torch", "nn", "F", "math", "operator", "Block", "load"}


@dataclass(frozen=True)
class Statement:
    """One line of `forward`: its outermost node, the nodes whose variables it assigns (None: `_`), its operands."""

    node: fx.Node
    targets: tuple[fx.Node | None, ...]
    reads: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Forward:
    """Statements in order and the name of every variable."""

    arguments: tuple[str, ...]
    statements: tuple[Statement, ...]
    names: dict[fx.Node, str]


def plan_forward(graph: fx.Graph, runs: Mapping[str, Run]) -> Forward:
    """Decide statements and names. `runs` are the calls that one container stands for."""
    inside = _InPlace(graph, runs)
    statements = inside.statements()
    names = _Namer(graph, statements, inside).names()
    arguments = tuple(names[n] for n in graph.nodes if n.op == "placeholder")
    return Forward(arguments, tuple(statements), names)


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

    def __init__(self, graph: fx.Graph, runs: Mapping[str, Run]) -> None:
        self.graph = graph
        self.skipped = {n for run in runs.values() for n in run.nodes[:-1]}
        self.inputs = {run.nodes[-1]: run.argument for run in runs.values()}
        self.unpacked = {n: items for n in graph.nodes if (items := _unpacked(n))}
        items = {i for n in self.unpacked for i in n.users}
        self.lines = [
            n
            for n in graph.nodes
            if n.op not in ("placeholder", "output")
            and n not in self.skipped
            and n not in items
            and not _trivial(n)
        ]
        self.inlined: set[fx.Node] = set()
        self.items = items
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
        """`node` and all that is written inside it."""
        for operand in self.operands(node):
            if operand in self.inlined or (_trivial(operand) and operand not in self.items):
                yield from self.parts(operand)
        yield node

    def statements(self) -> list[Statement]:
        """What remains, in the order of the graph."""
        result = []
        for node in self.lines:
            if node in self.inlined:
                continue
            targets: tuple[fx.Node | None, ...] = (node,) if node.users else ()
            if node.target is operator.setitem:
                targets = ()
            result.append(
                Statement(node, self.unpacked.get(node, targets), tuple(dict.fromkeys(self.variables(node))))
            )
        return result

    def _absorb_all(self) -> None:
        output = next(n for n in self.graph.nodes if n.op == "output")
        position = len(self.lines) - 1
        if isinstance(output.args[0], fx.Node):
            position, _ = self._absorb(output, position, MAX_CALLS)
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
            if ready and budget > 0 and operand not in self.unpacked and self._mentions(operand) == 1:
                self.inlined.add(operand)
                position, budget = self._absorb(operand, position - 1, budget - 1)
        return position, budget

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
        if (
            user.target is not operator.getitem
            or not isinstance(user.args[1], int)
            or user.args[0] is not node
        ):
            return ()
        if items[user.args[1]] is not None:
            return ()
        items[user.args[1]] = user
    return tuple(items)


@dataclass
class _Chain:
    """The values that one variable holds in turn, alive from statement `start` to `end`."""

    wish: tuple[str, ...]
    members: list[fx.Node]
    start: int
    end: int
    modules: list[str]
    named: bool = False


class _Namer:
    """Chains and their names; two chains of one name never live at the same time."""

    def __init__(self, graph: fx.Graph, statements: list[Statement], inside: _InPlace) -> None:
        self.statements, self.inside = statements, inside
        self.output = next(n for n in graph.nodes if n.op == "output")
        self.keys = _output_keys(self.output.args[0])
        self.last: dict[fx.Node, int] = {}
        for index, statement in enumerate(statements):
            self.last.update(dict.fromkeys(statement.reads, index))
        self.last.update(dict.fromkeys(inside.variables(self.output), len(statements)))
        self.chains: list[_Chain] = []
        self.of: dict[fx.Node, _Chain] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                self._begin(node, -1, (str(node.target),), named=True)

    def names(self) -> dict[fx.Node, str]:
        """The name of every variable."""
        for index, statement in enumerate(self.statements):
            self._assign(index, statement)
        taken: list[tuple[str, _Chain]] = []
        for chain in sorted(self.chains, key=lambda c: c.start):
            busy = {name for name, other in taken if chain.start < other.end and other.start < chain.end}
            taken.append((_free(chain.wish if chain.named else _wish(chain), busy), chain))
        return {node: name for name, chain in taken for node in chain.members}

    def _assign(self, index: int, statement: Statement) -> None:
        modules = [str(n.target) for n in self.inside.parts(statement.node) if n.op == "call_module"]
        if len(statement.targets) > 1:
            for letter, node in zip("abcd", statement.targets, strict=False):
                if node is not None:
                    self._begin(node, index, (letter,), named=True)
        elif statement.targets and statement.targets[0] is not None:
            node = statement.targets[0]
            chain = None if node in self.keys else self._taken_over(index, statement)
            if chain is None:
                wish = (self.keys[node],) if node in self.keys else (_base(node),)
                chain = self._begin(node, index, wish, named=node in self.keys)
            else:
                chain.members.append(node)
                chain.end = max(chain.end, self.last.get(node, index))
                self.of[node] = chain
            chain.modules += modules

    def _begin(self, node: fx.Node, index: int, wish: tuple[str, ...], named: bool) -> _Chain:
        # a variable that nobody reads still occupies its name in the statement that assigns it
        chain = _Chain(wish, [node], index, max(self.last.get(node, index), index + 1), [], named)
        self.chains.append(chain)
        self.of[node] = chain
        return chain

    def _taken_over(self, index: int, statement: Statement) -> _Chain | None:
        if is_size(statement.node):
            return None
        for read in statement.reads:
            chain = self.of[read]
            generic = not chain.named or chain.wish in (("x",), ("input",))
            if self.last[read] == index and chain.end == index and generic and not is_size(read):
                return chain
        return None


def _output_keys(value: Any) -> dict[fx.Node, str]:
    if not isinstance(value, Mapping):
        return {}
    keys = {v: str(k) for k, v in value.items() if isinstance(v, fx.Node) and str(k).isidentifier()}
    return {node: key for node, key in keys.items() if node.op not in ("placeholder", "get_attr")}


def _wish(chain: _Chain) -> tuple[str, ...]:
    """The innermost scope that holds all modules of the chain; `x` for one that runs through the whole network."""
    if not chain.modules:
        return chain.wish
    scopes = [p.split(".")[:-1] or [p] for p in chain.modules]
    name = re.sub(r"\W", "_", "_".join(os.path.commonprefix(scopes)))
    return (name if not name[:1].isdigit() else f"x{name}",) if name else ("x", "y", "z")


def _base(node: fx.Node) -> str:
    """`add_3` as `add`: the name that torch.fx derived from the op."""
    return re.sub(r"_\d+$", "", node.name) or node.name


def _free(wish: tuple[str, ...], busy: set[str]) -> str:
    for name in wish:
        if name not in busy and name not in _RESERVED:
            return name
    count = 2
    while (name := f"{wish[-1]}_{count}") in busy:
        count += 1
    return name
