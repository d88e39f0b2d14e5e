"""A YAML value that knows where it was written. Aliased nodes are shared, not copied: memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from specs.diagnostics import Diagnostic

__all__ = ["Key", "KeyPath", "Node", "Place", "dotted", "kind", "shown"]

Key: TypeAlias = str | int
KeyPath: TypeAlias = tuple[Key, ...]
Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Place:
    """Where a node starts, counted from 1, and the text of that line. Line 0: not a file, `source` says all."""

    source: str
    line: int = 0
    column: int = 0
    text: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    def diagnostic(self, code: str, message: str, hint: str = "") -> Diagnostic:
        """A finding at this place."""
        return Diagnostic(code, message, str(self), hint, line=self.text)


@dataclass(frozen=True)
class Node:
    """A value with its place; `keys` holds the places of a mapping's keys.

    `size` counts the nodes that it stands for once aliases are expanded, `height` its levels of nesting;
    `written` is a scalar's text before ${env:...} was expanded; `broken` marks what has been reported already.
    """

    content: Scalar | tuple[Node, ...] | dict[Key, Node]
    place: Place
    keys: Mapping[Key, Place] = field(default_factory=dict)
    size: int = 1
    height: int = 0
    written: str | None = None
    broken: bool = False

    def plain(self) -> Any:
        """The value in Python's types."""
        if isinstance(self.content, dict):
            return {key: node.plain() for key, node in self.content.items()}
        if isinstance(self.content, tuple):
            return [node.plain() for node in self.content]
        return self.content

    def child(self, key: Key) -> Node | None:
        """The node under that key or index, None where there is none."""
        if isinstance(self.content, dict):
            return self.content.get(key)
        if isinstance(self.content, tuple) and isinstance(key, int) and 0 <= key < len(self.content):
            return self.content[key]
        return None

    def walk(self, path: Iterable[Key]) -> Iterator[Node]:
        """This node and those along the path, as far as it exists."""
        yield self
        node: Node | None = self
        for key in path:
            node = node.child(key) if node is not None else None
            if node is None:
                return
            yield node

    def get(self, path: KeyPath) -> Node | None:
        """The node at that path, None where there is none."""
        nodes = list(self.walk(path))
        return nodes[-1] if len(nodes) == len(path) + 1 else None

    def at(self, path: Sequence[Key], *, key: bool = False) -> Place:
        """The place of the value at that path, or of its key; of what should hold it where it does not exist."""
        nodes = list(self.walk(path))
        depth = len(nodes) - 1
        if depth and (key or depth < len(path)):
            return nodes[depth - 1].keys.get(path[depth - 1], nodes[depth].place)
        return nodes[depth].place

    def expanded(self, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
        """Path and original text of every scalar in which ${env:...} was expanded."""
        if self.written is not None:
            yield prefix, self.written
        if isinstance(self.content, (dict, tuple)):
            items = self.content.items() if isinstance(self.content, dict) else enumerate(self.content)
            for key, node in items:
                yield from node.expanded((*prefix, key))


def dotted(path: Iterable[Key]) -> str:
    """A key path as people write it: tasks[0].guarantee.max_drop."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def kind(value: object) -> str:
    """What a value is, in words; scalars are shown."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return shown(value)


def shown(value: object) -> str:
    """A scalar as YAML has it, short enough for a message."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
