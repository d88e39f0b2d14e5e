"""Two graphs as text, one node a line with the shape on every edge, and what changes from one to the other.

Nodes are matched by key, in order, longest common runs first: layers by name, inputs and outputs by place, others by
op.
A matched node of the second graph goes by its name in the first, so that a name that a tool drew differently is no
difference. What changed is marked: removed, added, retyped (an element type or a shape), rewired (fed by other nodes),
changed (its op or its settings).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Any, Literal

__all__ = ["Edge", "GraphDiff", "GraphNode", "GraphText", "Hunk", "Line", "graph_diff"]

Mark = Literal["removed", "added", "retyped", "rewired", "changed"]
_CONTEXT = 3
_Names = Mapping[str, str]


@dataclass(frozen=True)
class Edge:
    """What a node is given: a value that the node `ref` makes, or a constant. `type`: as in f32[2, 8, 6, 6]."""

    text: str
    type: str
    ref: str | None = None
    label: str = ""

    def __str__(self) -> str:
        return f"{self.label}{self.text} {self.type}".rstrip()


@dataclass(frozen=True)
class GraphNode:
    """A value that is computed. `key`: what it is matched by; `others`: names of further values that it makes."""

    name: str
    type: str
    op: str
    edges: tuple[Edge, ...] = ()
    key: str = ""
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        given = ", ".join(map(str, self.edges))
        if self.op == "return":
            return f"return {given}"
        return f"{self.name}: {self.type} = {self.op}" + (f"({given})" if self.op != "input" else "")


@dataclass(frozen=True)
class GraphText:
    """The nodes of a graph in its order; `title`: where it comes from."""

    title: str
    nodes: tuple[GraphNode, ...]


@dataclass(frozen=True)
class Line:
    """A line of a unified diff: " ", "-" or "+", the node's text, and its marks."""

    sign: Literal[" ", "-", "+"]
    text: str
    marks: tuple[Mark, ...] = ()

    def __str__(self) -> str:
        return f"{self.sign}{self.text}" + (f"  # {', '.join(self.marks)}" if self.marks else "")


@dataclass(frozen=True)
class Hunk:
    """Lines that belong together; `before` and `after`: the first line's number in either graph, and how many."""

    before: tuple[int, int]
    after: tuple[int, int]
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        (a, m), (b, n) = self.before, self.after
        return "\n".join([f"@@ -{a},{m} +{b},{n} @@", *map(str, self.lines)])


@dataclass(frozen=True)
class GraphDiff:
    """All that changes from one graph to the other; `counts`: nodes by mark, and under "same" those without."""

    before: str
    after: str
    hunks: tuple[Hunk, ...]
    counts: Mapping[str, int] = field(hash=False)

    @property
    def equal(self) -> bool:
        """Whether no node differs."""
        return not self.hunks

    def to_dict(self) -> dict[str, Any]:
        """The same data in JSON's types."""
        hunks = [
            {
                "before": list(hunk.before),
                "after": list(hunk.after),
                "lines": [{"sign": line.sign, "text": line.text, "marks": list(line.marks)} for line in hunk.lines],
            }
            for hunk in self.hunks
        ]
        return {"before": self.before, "after": self.after, "counts": dict(self.counts), "graph": hunks}


def graph_diff(a: GraphText, b: GraphText) -> GraphDiff:
    """What changes from `a` to `b`."""
    steps = SequenceMatcher(None, [n.key for n in a.nodes], [n.key for n in b.nodes], autojunk=False).get_opcodes()
    after = _renamed(a.nodes, b.nodes, steps)
    lines: list[Line] = []
    for step, i, k, j, m in steps:
        if step == "equal":
            lines += (line for pair in zip(a.nodes[i:k], after[j:m], strict=True) for line in _pair(*pair))
        else:
            lines += (Line("-", str(node), ("removed",)) for node in a.nodes[i:k])
            lines += (Line("+", str(node), ("added",)) for node in after[j:m])
    counts = Counter[str](mark for line in lines for mark in line.marks)
    counts["same"] = sum(line.sign == " " for line in lines)
    return GraphDiff(a.title, b.title, tuple(_hunks(lines)), counts)


def _renamed(
    a: Sequence[GraphNode], b: Sequence[GraphNode], steps: Sequence[tuple[str, int, int, int, int]]
) -> tuple[GraphNode, ...]:
    """The nodes of `b` under the names that those matched with them have in `a`; no other takes one of these."""
    names: dict[str, str] = {}
    for step, i, k, j, m in steps:
        for old, new in zip(a[i:k], b[j:m], strict=True) if step == "equal" else ():
            names.update(zip((new.name, *new.others), (old.name, *old.others), strict=False))
    taken = {name for node in a for name in (node.name, *node.others)}
    for node in b:
        for name in (node.name, *node.others):
            own = name
            while name not in names and own in taken:
                own += "'"
            taken.add(names.setdefault(name, own))
    return tuple(
        replace(
            node,
            name=names[node.name],
            others=tuple(names[name] for name in node.others),
            edges=tuple(_wired(edge, names) for edge in node.edges),
        )
        for node in b
    )


def _wired(edge: Edge, names: _Names) -> Edge:
    if edge.ref is None:
        return edge
    return replace(edge, text=names.get(edge.text, edge.text), ref=names.get(edge.ref, edge.ref))


def _pair(old: GraphNode, new: GraphNode) -> Iterator[Line]:
    if str(old) == str(new):
        yield Line(" ", str(old))
        return
    marks: list[Mark] = []
    if [old.type, *(e.type for e in old.edges)] != [new.type, *(e.type for e in new.edges)]:
        marks.append("retyped")
    if [e.ref for e in old.edges if e.ref] != [e.ref for e in new.edges if e.ref]:
        marks.append("rewired")
    yield Line("-", str(old))
    yield Line("+", str(new), tuple(marks) or ("changed",))


def _hunks(lines: Sequence[Line]) -> Iterator[Hunk]:
    """The lines that changed, with those around them, numbered as in a unified diff."""
    changed = [at for at, line in enumerate(lines) if line.sign != " "]
    while changed:
        last = 0
        while last + 1 < len(changed) and changed[last + 1] - changed[last] <= 2 * _CONTEXT:
            last += 1
        begin, end = max(0, changed[0] - _CONTEXT), changed[last] + 1 + _CONTEXT
        inside = tuple(lines[begin:end])
        yield Hunk(_numbers(lines[:begin], inside, "-"), _numbers(lines[:begin], inside, "+"), inside)
        changed = changed[last + 1 :]


def _numbers(above: Sequence[Line], inside: Sequence[Line], sign: str) -> tuple[int, int]:
    first, count = (sum(line.sign in (" ", sign) for line in part) for part in (above, inside))
    return first + bool(count), count
