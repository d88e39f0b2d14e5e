"""The module tree of the emitted class: which sub-modules and tensors the graph uses, how the text reaches them.

Names in the state dict are the original's. Children 0..n-1 live in an nn.ModuleList, other nested children in a Block,
odd names in an nn.ModuleDict; what the graph calls one after the other in an nn.Sequential, or under names in a Chain.
"""

from __future__ import annotations

import itertools
import json
import keyword
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import fx, nn

__all__ = ["Run", "Scope", "Structure", "structure_of"]

Kind = Literal["leaf", "block", "list", "dict"]


@dataclass
class Scope:
    """One module of the tree: a leaf that is called, or a container of children and of bare tensors."""

    path: str
    leaf: bool = False
    children: dict[str, Scope] = field(default_factory=dict)
    tensors: dict[str, bool] = field(default_factory=dict)
    """By name, whether it is a parameter."""

    @property
    def kind(self) -> Kind:
        if self.leaf:
            return "leaf"
        names = list(self.children)
        if names and sorted(names) == sorted(map(str, range(len(names)))):
            return "list"
        return "block" if all(_is_name(n) for n in names) else "dict"

    @property
    def numbered(self) -> bool:
        """Its tensors are 0..n-1."""
        return sorted(self.tensors) == sorted(map(str, range(len(self.tensors))))

    @property
    def holds_parameters(self) -> bool:
        """Nothing but parameters whose names are no attributes: an nn.ParameterList or nn.ParameterDict."""
        odd = any(not _is_name(name) for name in self.tensors)
        return odd and bool(self.path) and not self.children and all(self.tensors.values())

    def ordered(self) -> list[tuple[str, Scope]]:
        """The children; those of a list by number."""
        items = list(self.children.items())
        return sorted(items, key=lambda item: int(item[0])) if self.kind == "list" else items

    def walk(self) -> Iterator[Scope]:
        """This scope and all below it, children first."""
        for _, child in self.ordered():
            yield from child.walk()
        yield self


@dataclass(frozen=True)
class Run:
    """Consecutive calls that one container stands for: those nodes, the first one's input."""

    nodes: tuple[fx.Node, ...]
    argument: Any


@dataclass(frozen=True)
class Structure:
    """The tree, and the containers printed as nn.Sequential or Chain with the calls that each stands for."""

    root: Scope
    sequential: frozenset[str]
    runs: dict[str, Run]
    """Of those, the outermost: the ones that `forward` calls."""

    def text(self, path: str) -> str:
        """`layers.0.conv` as `self.layers[0].conv`."""
        if not path:
            return "super().forward"  # all of an nn.Sequential
        text, scope = "self", self.root
        for name in path.split("."):
            if scope.kind == "list" and name in scope.children:
                text = f"{text}[{name}]"
            elif scope.kind == "dict" and name in scope.children:
                text = f"{text}[{json.dumps(name)}]"
            elif scope.holds_parameters:
                text = f"{text}[{name if scope.numbered else json.dumps(name)}]"
            else:
                text = f"{text}.{name}" if _is_name(name) else f"getattr({text}, {json.dumps(name)})"
            scope = scope.children.get(name, scope)
        return text


def structure_of(module: fx.GraphModule) -> Structure:
    """What the graph of `module` calls and reads, as a tree."""
    root = Scope("")
    nodes = list(module.graph.nodes)
    for node in nodes:
        if node.op == "call_module":
            _scope(root, str(node.target)).leaf = True
    for node in nodes:
        if node.op == "get_attr":
            _add_tensor(root, str(node.target), module)
    runs = _runs(root, nodes)
    outermost = {path: r for path, r in runs.items() if not path or path.rpartition(".")[0] not in runs}
    return Structure(root, frozenset(runs), outermost)


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _scope(root: Scope, path: str) -> Scope:
    scope = root
    for name in path.split(".") if path else ():
        below = f"{scope.path}.{name}" if scope.path else name
        scope = scope.children.setdefault(name, Scope(below))
    return scope


def _add_tensor(root: Scope, target: str, module: nn.Module) -> None:
    """A tensor that belongs to a leaf comes with that leaf's constructor."""
    path, _, name = target.rpartition(".")
    scope = root
    for part in path.split(".") if path else ():
        if scope.leaf or part not in scope.children:
            break
        scope = scope.children[part]
    if scope.leaf:
        return
    value = getattr(module.get_submodule(path), name)
    _scope(root, path).tensors[name] = isinstance(value, nn.Parameter)


def _runs(root: Scope, nodes: list[fx.Node]) -> dict[str, Run]:
    """Containers whose children are each called once, one directly after the other; those of a list by number."""
    calls = Counter(str(n.target) for n in nodes if n.op == "call_module")
    spans: dict[str, Run] = {}
    for node in nodes:
        simple = node.op == "call_module" and len(node.args) == 1 and not node.kwargs
        if simple and calls[str(node.target)] == 1:
            spans[str(node.target)] = Run((node,), node.args[0])
    for scope in root.walk():
        chained = scope.kind == "list" or (scope.kind == "block" and bool(scope.path and scope.children))
        if chained and not scope.tensors and not _read_inside(scope, nodes):
            run = _joined([spans.get(child.path) for _, child in scope.ordered()])
            if run is not None:
                spans[scope.path] = run
    containers = {s.path for s in root.walk() if not s.leaf}
    return {path: run for path, run in spans.items() if path in containers}


def _read_inside(scope: Scope, nodes: list[fx.Node]) -> bool:
    prefix = f"{scope.path}." if scope.path else ""
    return any(n.op == "get_attr" and str(n.target).startswith(prefix) for n in nodes)


def _joined(parts: list[Run | None]) -> Run | None:
    runs = [p for p in parts if p is not None]
    if len(runs) < len(parts):
        return None
    for before, after in itertools.pairwise(runs):
        last, first = before.nodes[-1], after.nodes[0]
        if after.argument is not last or last.next is not first or len(last.users) != 1:
            return None
    return Run(tuple(n for r in runs for n in r.nodes), runs[0].argument)
