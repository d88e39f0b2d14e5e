"""From files to one tree of values: `extends` merged deep (lists replaced), then overrides `a.b=c` put in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from specs.diagnostics import Diagnostic, SpecError, nearest
from specs.node import Key, Node, Place, dotted, kind
from specs.source import MAX_DEPTH, load, parse

__all__ = ["read_tree"]

MAX_FILES = 16


def read_tree(path: Path, overrides: Sequence[str], problems: list[Diagnostic]) -> Node:
    """The tree of a spec. SpecError, with `problems`, where it cannot be read; the rest goes into `problems`."""
    try:
        root = _extended(path, str(path), (), problems)
    except SpecError as error:
        found = [d for d in error.diagnostics if d not in problems]
        raise SpecError([*problems, *found]) from error
    for text in overrides:
        root = _overridden(root, text, problems)
    return root


def _extended(path: Path, name: str, seen: tuple[Path, ...], problems: list[Diagnostic]) -> Node:
    """The file's tree, laid over that of the file that it extends."""
    root = load(path, problems, name)
    assert isinstance(root.content, dict)
    base = root.content.get("extends")
    if base is None or base.broken:
        return root
    if not isinstance(base.content, str) or not base.content:
        problems.append(base.place.diagnostic("S105", f"extends must be a file name, got {kind(base.plain())}"))
        return _without(root, "extends")
    seen = (*seen, path.resolve())
    target = path.parent / base.content
    if target.resolve() in seen:
        problems.append(base.place.diagnostic("S114", f"{base.content} extends this file in turn"))
        raise SpecError(problems)
    if len(seen) >= MAX_FILES:
        problems.append(base.place.diagnostic("S117", f"more than {MAX_FILES} files extend each other"))
        raise SpecError(problems)
    if not target.is_file():
        problems.append(base.place.diagnostic("S100", f"the file that it extends does not exist: {base.content}"))
        raise SpecError(problems)
    below = _extended(target, str(Path(name).parent / base.content), seen, problems)
    return _merged(below, _without(root, "extends"))


def _without(node: Node, key: Key) -> Node:
    assert isinstance(node.content, dict)
    return replace(node, content={k: v for k, v in node.content.items() if k != key})


def _merged(below: Node, above: Node) -> Node:
    """Mappings key by key; of everything else the upper one."""
    if not isinstance(below.content, dict) or not isinstance(above.content, dict):
        return above
    content = dict(below.content)
    for key, node in above.content.items():
        content[key] = _merged(content[key], node) if key in content else node
    return replace(above, content=content, keys={**below.keys, **above.keys})


class _BadOverride(Exception):
    """What is wrong with an override: message and hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _overridden(root: Node, text: str, problems: list[Diagnostic]) -> Node:
    name = f"--set {text}"
    place = Place(name)
    path, equals, value = text.partition("=")
    steps = [step for step in re.split(r"\.|\[(\d+)\]", path.strip()) if step]
    try:
        if not equals or not steps or len(steps) > MAX_DEPTH:
            raise _BadOverride("an override has the form a.b=value", "for example budgets.macs=50%")
        node = parse(value, name, problems, lines=False) or Node(None, place)
        return _assigned(root, steps, node, place, "")
    except _BadOverride as error:
        problems.append(place.diagnostic("S116", str(error), error.hint))
    except SpecError:  # its finding is in problems already
        pass
    return root


def _assigned(node: Node, steps: Sequence[str], value: Node, place: Place, path: str) -> Node:
    """The node with the value at the end of the steps; mappings that are missing are made."""
    if not steps:
        return value
    if isinstance(node.content, tuple):
        return _in_list(node, node.content, steps, value, place, path)
    if node.content is not None and not isinstance(node.content, dict):
        raise _BadOverride(f"{path} is {kind(node.content)}: there is nothing below it")
    content = node.content or {}
    key: Key = int(steps[0]) if steps[0].isdigit() and int(steps[0]) in content else steps[0]
    below = content.get(key, Node(None, place))
    changed = _assigned(below, steps[1:], value, place, dotted([path, key]).lstrip("."))
    return Node({**content, key: changed}, node.place, {**node.keys, key: place})


def _in_list(node: Node, items: tuple[Node, ...], steps: Sequence[str], value: Node, place: Place, path: str) -> Node:
    """Into the item of that index; or of that name, which for a pass is its one key."""
    index = _index(items, steps[0], path)
    item, rest = items[index], steps[1:]
    if not steps[0].isdigit() and not _is_task(item, steps[0]):
        rest = steps
        if isinstance(item.content, str):
            item = Node({item.content: Node(None, item.place)}, item.place, {item.content: item.place})
    changed = _assigned(item, rest, value, place, f"{path}[{index}]")
    return replace(node, content=(*items[:index], changed, *items[index + 1 :]))


def _index(items: tuple[Node, ...], step: str, path: str) -> int:
    if step.isdigit():
        if len(step) > 6 or int(step) >= len(items):
            raise _BadOverride(f"{path} has {len(items)} items: there is no index {step}", "the first index is 0")
        return int(step)
    names = [_name(item) for item in items]
    if names.count(step) > 1:
        raise _BadOverride(f"{path} has several items named {step}", f"use an index, as in {path}.0")
    if step not in names:
        known = [name for name in names if name]
        raise _BadOverride(f"{path} has no item named {step}", nearest(step, known))
    return names.index(step)


def _name(item: Node) -> str:
    """What an override may call an item of a list: a task's name, or a pass."""
    if isinstance(item.content, str):
        return item.content
    if isinstance(item.content, dict):
        named = item.content.get("name")
        if named is not None and isinstance(named.content, str):
            return named.content
        if len(item.content) == 1:
            return str(next(iter(item.content)))
    return ""


def _is_task(item: Node, step: str) -> bool:
    named = item.child("name")
    return named is not None and named.content == step
