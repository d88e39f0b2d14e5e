"""YAML to nodes that keep file, line and column, in bounded time and memory.

Built on PyYAML's events: the nodes that an alias stands for are counted, so that a file that would expand without
bound is refused before anything is expanded. Scalars follow the core schema of YAML 1.2: `on` and `yes` are strings,
1e-3 is a float, 010 is ten. Findings are collected; only bad syntax and exceeded limits end the reading at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

import yaml
from yaml import events as ev

from specs.diagnostics import Diagnostic, SpecError
from specs.node import Key, Node, Place, Scalar, kind, shown

__all__ = ["load", "parse", "scalar"]

MAX_BYTES = 256 * 2**10
MAX_NODES = 5_000
MAX_DEPTH = 40

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {"": None, "~": None}
for _word, _value in (("null", None), ("true", True), ("false", False), (".nan", float("nan"))):
    _WORDS |= dict.fromkeys((_word, _word.title(), _word.upper()), _value)
for _word in (".inf", ".Inf", ".INF"):
    _WORDS |= {_word: float("inf"), f"+{_word}": float("inf"), f"-{_word}": float("-inf")}
_ENV = re.compile(r"\$\{env:([^{}]*)\}")
_STRING_TAGS = ("!", "tag:yaml.org,2002:str")


def load(path: Path, problems: list[Diagnostic], name: str | None = None) -> Node:
    """The root mapping of a YAML file. SpecError where it cannot be read at all; the rest goes into `problems`."""
    name = str(path) if name is None else name
    data = _read(path, name)
    if len(data) > MAX_BYTES:
        raise SpecError.one("S117", f"the file is larger than {MAX_BYTES // 1024} KiB", name)
    root = parse(_decoded(data, name), name, problems)
    if root is None or root.content is None:
        raise SpecError.one("S105", "the file is empty", name, "a spec begins with version: 1")
    if not isinstance(root.content, dict):
        message = f"a spec must be a mapping of keys to values, got {kind(root.plain())}"
        raise SpecError([root.place.diagnostic("S105", message)])
    return root


def parse(text: str, name: str, problems: list[Diagnostic], *, lines: bool = True) -> Node | None:
    """The node of a YAML text, None where it is empty. SpecError on bad syntax and exceeded limits.

    Without `lines` every place is the name alone (an override, which stands in no file).
    """
    return _Composer(text, name, problems, lines).document()


def scalar(text: str) -> Scalar:
    """A plain scalar by the core schema of YAML 1.2. Integers beyond 64 bits stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) <= 66:
        number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        return number if abs(number) < 2**63 else text
    return float(text) if _FLOAT.fullmatch(text) and not _INT.fullmatch(text) else text


def _read(path: Path, name: str) -> bytes:
    try:
        if not path.is_file():
            found = "is not a file" if path.exists() else "does not exist"
            raise SpecError.one("S100", f"the spec {found}", name)
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SpecError.one("S100", f"the spec cannot be read: {reason}", name) from error


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        place = Place(name, before.count(b"\n") + 1, column)
        message = "the file is not UTF-8 text"
        raise SpecError([place.diagnostic("S101", message, "save it with the encoding UTF-8")]) from error


class _Composer:
    """Builds the node tree of one text from the parser's events."""

    def __init__(self, text: str, name: str, problems: list[Diagnostic], lines: bool) -> None:
        self.text, self.name, self.problems = text, name, problems
        self.lines = text.splitlines() if lines else None
        self.anchors: dict[str, Node | None] = {}  # None while the anchored node is still open
        self.count = self.grown = 0
        self.events = self._events()

    def document(self) -> Node | None:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), ev.StreamEndEvent):
            return None
        root = self.node(next(self.events), 0)
        next(self.events)  # the end of the document
        rest = next(self.events)
        if not isinstance(rest, ev.StreamEndEvent):
            self.refuse("S101", "one document is expected, got a second one after ---", self.place(rest))
        return root

    def node(self, event: ev.Event, depth: int) -> Node:
        place = self.place(event)
        if isinstance(event, ev.AliasEvent):
            return self.alias(event, place, depth)
        self.spend(1, depth, place)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = None
        if isinstance(event, ev.ScalarEvent):
            node = self.scalar(event, place)
        else:
            assert isinstance(event, ev.CollectionStartEvent)
            if event.tag not in (None, "!"):
                self.report("S101", f"tags such as {_tag(event.tag)} are not supported", place)
            compose = self.mapping if isinstance(event, ev.MappingStartEvent) else self.sequence
            node = compose(place, depth)
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def alias(self, event: ev.AliasEvent, place: Place, depth: int) -> Node:
        name = str(event.anchor)
        node = self.anchors.get(name)
        if node is None:
            inside = name in self.anchors
            problem = "stands inside what it refers to" if inside else "has no anchor before it"
            self.report("S101", f"the alias *{name} {problem}", place, "quote text that begins with *")
            return Node(None, place, broken=True)
        self.spend(node.size, depth + node.height, place)
        return node

    def sequence(self, place: Place, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self.events), ev.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        return Node(tuple(items), place, size=_size(items), height=_height(items))

    def mapping(self, place: Place, depth: int) -> Node:
        content: dict[Key, Node] = {}
        keys: dict[Key, Place] = {}
        merged: list[Node] = []
        while not isinstance(event := next(self.events), ev.MappingEndEvent):
            at, is_merge = self.place(event), _is_merge(event)
            key = self.key(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if key is None:
                continue
            if is_merge:
                merged.append(value)
            elif key in content:
                hint = f"the first one is on line {keys[key].line}" if keys[key].line else ""
                self.report("S102", f"the key {key} occurs twice", at, hint)
            else:
                content[key], keys[key] = value, at
        for value in merged:
            self.merge(content, keys, value)
        values = content.values()
        return Node(content, place, keys, size=_size(values), height=_height(values))

    def merge(self, content: dict[Key, Node], keys: dict[Key, Place], value: Node) -> None:
        """`<<: *anchor`: the keys that the mapping does not have itself."""
        for source in value.content if isinstance(value.content, tuple) else (value,):
            if source.broken:
                continue
            if not isinstance(source.content, dict):
                self.report("S105", f"<< must be given a mapping, got {kind(source.plain())}", source.place)
                continue
            for key, node in source.content.items():
                if key not in content:
                    content[key], keys[key] = node, source.keys[key]

    def key(self, event: ev.Event, depth: int) -> Key | None:
        """The key of an entry; None, reported, when it is neither a string nor a whole number."""
        node = self.node(event, depth)
        key = node.content
        if isinstance(key, (str, int)) and not isinstance(key, bool) and node.written is None:
            return key
        if not node.broken:
            message = f"a key must be a string or a whole number, got {kind(node.plain())}"
            self.report("S101", message, self.place(event), "put it in quotes")
        return None

    def scalar(self, event: ev.ScalarEvent, place: Place) -> Node:
        if event.tag is not None and event.tag not in _STRING_TAGS:
            self.report("S101", f"tags such as {_tag(event.tag)} are not supported", place)
            return Node(None, place, broken=True)
        text = self.expand(event.value, place)
        if text is None:
            return Node(None, place, broken=True)
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
            self.report("S101", "the text holds a character that is not allowed", place)
            return Node(None, place, broken=True)
        plain = bool(event.implicit[0]) and event.tag is None
        written = None if text == event.value else event.value
        if written is not None and text == "":
            plain = False
        return Node(scalar(text) if plain else text, place, written=written)

    def expand(self, text: str, place: Place) -> str | None:
        """The text with ${env:NAME} replaced; None, reported, when a variable is missing."""
        parts = _ENV.split(text)
        for index in range(1, len(parts), 2):
            value = os.environ.get(parts[index]) if parts[index] else None
            if value is None:
                missing = f"the environment variable {shown(parts[index])} is not set"
                self.report("S115", missing if parts[index] else "${env:} names no environment variable", place)
                return None
            self.grown += len(value)
            if self.grown > MAX_BYTES:
                self.refuse("S117", f"environment variables add more than {MAX_BYTES // 1024} KiB", place)
            parts[index] = value
        return "".join(parts)

    def spend(self, nodes: int, depth: int, place: Place) -> None:
        self.count += nodes
        if self.count > MAX_NODES:
            hint = "aliases count as often as they are used"
            self.refuse("S117", f"the file holds more than {MAX_NODES} values", place, hint)
        if depth > MAX_DEPTH:
            self.refuse("S117", f"values are nested more than {MAX_DEPTH} deep", place)

    def place(self, event: ev.Event) -> Place:
        mark = event.start_mark
        return Place(self.name) if mark is None else self.spot(mark.line, mark.column)

    def spot(self, line: int, column: int) -> Place:
        if self.lines is None:
            return Place(self.name)
        text = self.lines[line] if line < len(self.lines) else ""
        return Place(self.name, line + 1, column + 1, text)

    def report(self, code: str, message: str, place: Place, hint: str = "") -> None:
        self.problems.append(place.diagnostic(code, message, hint))

    def refuse(self, code: str, message: str, place: Place, hint: str = "") -> NoReturn:
        self.report(code, message, place, hint)
        raise SpecError(self.problems)

    def _events(self) -> Iterator[ev.Event]:
        """The parser's events; its errors as findings that end the reading."""
        loader = None
        try:
            loader = yaml.SafeLoader(self.text)
            while loader.check_event():
                yield loader.get_event()  # type: ignore[no-untyped-call]
        except yaml.reader.ReaderError as error:
            before = self.text[: error.position]
            spot = self.spot(before.count("\n"), error.position - (before.rfind("\n") + 1))
            self.refuse("S101", f"the character #x{ord(self.text[error.position]):04x} is not allowed", spot)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            spot = Place(self.name) if mark is None else self.spot(mark.line, mark.column)
            self.refuse("S101", f"not valid YAML: {error.problem or error.context}", spot, _advice(error))
        except (ValueError, OverflowError):  # an escape beyond Unicode, or a version of thousands of digits
            spot = Place(self.name) if loader is None else self.spot(loader.line, loader.column)
            self.refuse("S101", "not valid YAML: the number in an escape or a directive is too large", spot)


def _size(nodes: Iterable[Node]) -> int:
    return 1 + sum(node.size for node in nodes)


def _height(nodes: Iterable[Node]) -> int:
    return 1 + max((node.height for node in nodes), default=0)


def _is_merge(event: ev.Event) -> bool:
    return isinstance(event, ev.ScalarEvent) and event.value == "<<" and bool(event.implicit[0])


def _tag(tag: str) -> str:
    return shown(tag.replace("tag:yaml.org,2002:", "!!"))


def _advice(error: yaml.MarkedYAMLError) -> str:
    """What usually causes this syntax error."""
    problem = error.problem or ""
    if "'\\t'" in problem:
        return "indent with spaces, not with tabs"
    if "cannot start any token" in problem or "alphabetic or numeric" in problem:
        return "put text that begins with one of * & % @ ` in quotes"
    if "mapping values are not allowed" in problem:
        return "check the indentation, and put text that holds a colon and a space in quotes"
    if problem.endswith("but got '{'"):
        return "inside { } and [ ] put ${env:NAME} in quotes; it is then text"
    if error.context and error.context_mark:
        return f"{error.context.removeprefix('while ')} that begins on line {error.context_mark.line + 1}"
    return ""
