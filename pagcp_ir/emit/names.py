"""What the variables of `forward` are called.

A statement takes over the variable of an operand that it is the last to use, as `x = self.norm(x)` does; such a
chain is named after the innermost module that holds it, if that has a telling name, an output after its key.
"""

from __future__ import annotations

import builtins
import itertools
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from pagcp_ir.emit.expressions import is_size, value_of
from pagcp_ir.emit.forward import Statement
from pagcp_ir.emit.functions import BUILTINS
from pagcp_ir.emit.structure import Run

__all__ = ["variable_names"]

GENERIC = ("x", "y", "z")
MAX_NAME = 16
_DULL = re.compile(r"\d+|.{1,2}|(conv|cv|fc|bn|norm|act|relu|block|layer|net|feature|model|module|body|linear)s?_?\d*")
"""Names of modules that say what they are, not what they make."""
_OPERATIONS = {"sub": "diff", "add": "total", "mul": "product", "floordiv": "quotient"}
_OPERATIONS |= dict.fromkeys(("div", "truediv"), "ratio")
_OURS = {*keyword.kwlist, *(f.__name__ for f in BUILTINS), "self", "torch", "nn", "F", "math", "operator", "super"}
_RESERVED = {*_OURS, *dir(builtins)}


def variable_names(graph: fx.Graph, statements: Sequence[Statement], runs: Mapping[str, Run]) -> dict[fx.Node, str]:
    """The name of every placeholder and of every value that a statement assigns.

    `runs`: the calls that one container stands for.
    """
    return _Namer(graph, statements, runs).names()


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

    def __init__(self, graph: fx.Graph, statements: Sequence[Statement], runs: Mapping[str, Run]) -> None:
        self.statements = statements
        self.called = {run.nodes[-1]: path for path, run in runs.items()}
        self.keys = _output_keys(statements[-1].node.args[0])
        self.last: dict[fx.Node, int] = {}
        for index, statement in enumerate(statements):
            self.last.update(dict.fromkeys(statement.reads, index))
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
            name = _free(chain.wish, busy | _OURS) if chain.named else _free(_wish(chain), busy | _RESERVED)
            taken.append((name, chain))
        return {node: name for name, chain in taken for node in chain.members}

    def _assign(self, index: int, statement: Statement) -> None:
        modules = [self.called.get(n, str(n.target)) for n in statement.inside if n.op == "call_module"]
        if len(statement.targets) > 1:
            for letter, node in zip("abcd", statement.targets, strict=False):
                if node is not None:
                    self._begin(node, index, (letter,), named=True)
        elif statement.targets and statement.targets[0] is not None:
            node = statement.targets[0]
            chain = None if node in self.keys else self._taken_over(index, statement)
            if chain is None:
                wish = (self.keys[node],) if node in self.keys else _base(node)
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
        if is_size(statement.node) or isinstance(value_of(statement.node), (tuple, list, Mapping)):
            return None
        first = statement.node.args[0] if statement.node.args else None
        if isinstance(first, (list, tuple)):  # torch.cat, torch.stack: none of their operands goes on
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
    """The last telling name on the way to all modules of the chain; `x` where there is none."""
    if not chain.modules:
        return chain.wish
    telling = [name for name in _common([p.split(".") for p in chain.modules]) if not _DULL.fullmatch(name)]
    return (re.sub(r"\W", "_", telling[-1]), *GENERIC) if telling else GENERIC


def _common(scopes: list[list[str]]) -> list[str]:
    levels = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*scopes, strict=False))
    return [names[0] for names in levels]


def _base(node: fx.Node) -> tuple[str, ...]:
    """`add_3` as `add`: the name that torch.fx derived from the op, where it is short."""
    name = re.sub(r"_\d+$", "", node.name) or node.name
    if len(name) > MAX_NAME or name == "getitem":
        return ("size",) if is_size(node) else GENERIC
    return (_OPERATIONS.get(name, name),)


def _free(wish: tuple[str, ...], busy: set[str]) -> str:
    for name in wish:
        if name not in busy:
            return name
    count = 2
    while (name := f"{wish[-1]}_{count}") in busy:
        count += 1
    return name
