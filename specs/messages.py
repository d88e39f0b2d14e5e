"""pydantic's findings in our words and codes, each at its place in the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from specs.diagnostics import Diagnostic, nearest
from specs.model import DEVICE, REFERENCE
from specs.node import Key, KeyPath, Node, dotted, kind, shown

__all__ = ["findings", "in_order", "key_path"]

_WANTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
# the patterns of specs.model and specs.sections, in words: code, what is wanted
_PATTERNS = {
    REFERENCE: ("S118", "of the form module:callable"),
    DEVICE: ("S118", "auto, cpu, cuda, cuda:<number> or mps"),
    r"\.(safetensors|pt)$": ("S112", "a .safetensors or .pt file"),
    r"\.pt2$": ("S112", "a .pt2 file"),
    r"\.csv$": ("S112", "a .csv file"),
    r"\{onnx\}": ("S118", "a command that holds {onnx}, the file to measure"),
}
_SHARE = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%\s*")
_AT_KEY = ("S103", "S110")


def findings(error: ValidationError, root: Node) -> Iterator[Diagnostic]:
    """Each of pydantic's errors as a diagnostic, but for what was reported when the file was read."""
    for details in error.errors(include_url=False):
        path = _existing(details["loc"], root)
        if path and path[-1] == "[key]":
            *above, name, _ = path
            message = f"{dotted(above)}: the key {name} must be a string"
            yield root.at(path[:-1], key=True).diagnostic("S105", message, f'put it in quotes: "{name}"')
            continue
        if any(node.broken for node in root.walk(path)) or (details["type"] == "too_short" and details["input"]):
            continue  # reported already: pydantic also calls a list too short whose items are all wrong
        code, text, hint = _told(details["type"], details.get("ctx", {}), details["input"])
        node = root.get(path)
        if code == "S105" and node is not None and node.written is not None:
            hint = "a variable in quotes is text: write it without quotes, on a line of its own"
        # a problem that begins with a colon is not a statement about the key itself
        message = dotted(path) + ("" if text.startswith(":") else " ") + text
        at_key = code in _AT_KEY or (code == "S108" and not text.startswith(":"))
        yield root.at(path, key=at_key).diagnostic(code, message.strip(), hint)


def in_order(found: Iterable[Diagnostic], name: str) -> tuple[Diagnostic, ...]:
    """Without repetitions, as they stand in the file; then those in other files, then those without a line."""

    def order(diagnostic: Diagnostic) -> tuple[bool, bool, str, int, int]:
        place = re.fullmatch(r"(.*):(\d+):(\d+)", diagnostic.where, re.DOTALL)
        if place is None:
            return True, True, diagnostic.where, 0, 0
        return False, place[1] != name, place[1], int(place[2]), int(place[3])

    return tuple(sorted(dict.fromkeys(found), key=order))


def key_path(text: str | Iterable[Key]) -> KeyPath:
    """The path that `tasks[0].loss` or `tasks.0.loss` names."""
    if not isinstance(text, str):
        return tuple(text)
    steps = (step for step in re.split(r"[.\[\]]", text) if step)
    return tuple(int(step) if step.isdigit() else step for step in steps)


def _existing(path: KeyPath, root: Node) -> KeyPath:
    """The path in the file: without the name of a field that the file spells as a bare list."""
    found: list[Key] = []
    node: Node | None = root
    for key in path:
        if node is not None and isinstance(node.content, tuple) and isinstance(key, str):
            continue
        found.append(key)
        node = node.child(key) if node is not None else None
    return tuple(found)


def _told(problem: str, context: Mapping[str, Any], given: Any) -> tuple[str, str, str]:
    """Code, text and hint of one of pydantic's errors."""
    got = f"got {kind(given)}"
    if problem.startswith("S1"):
        return problem, context["problem"], context["hint"]
    if problem == "missing":
        return "S106", "is missing", ""
    if problem in _WANTED:
        return "S105", f"must be {_WANTED[problem]}, {got}", _type_hint(problem, given)
    if problem in _BOUNDS:
        word, bound = _BOUNDS[problem]
        return "S104", f"must be {word} {context[bound]:g}, {got}", ""
    if problem == "finite_number":
        return "S104", f"must be finite, {got}", ""
    if problem in ("too_short", "string_too_short"):
        return "S104", "must not be empty", ""
    if problem == "too_long":
        return "S104", f"must have at most {context['max_length']} items, got {context['actual_length']}", ""
    if problem == "literal_error":
        known = re.sub(r"'([^']*)'", r"\1", context["expected"]).replace(" or ", ", ").split(", ")
        text = f"must be one of {', '.join(known)}, {got}" if len(known) > 1 else f"must be {known[0]}, {got}"
        close = nearest(given, known) if isinstance(given, str) else ""
        return "S107", text, close if close.startswith("did") else ""
    if problem == "string_pattern_mismatch":
        code, wanted = _PATTERNS[context["pattern"]]
        return code, f"must be {wanted}, {got}", ""
    return "S105", f"has a value that does not fit here, {got}", ""


def _type_hint(problem: str, given: Any) -> str:
    if problem == "string_type" and isinstance(given, (bool, int, float)):
        return f'put it in quotes: "{shown(given)}"'
    if problem == "float_type" and isinstance(given, str) and (share := _SHARE.fullmatch(given)):
        return f"write {float(share[1]) / 100:g}"
    if problem in ("tuple_type", "list_type") and isinstance(given, (str, int, float)):
        return f"write [{given}]" if len(str(given)) < 40 else ""
    if problem in ("tuple_type", "list_type") and isinstance(given, Mapping):
        return "put a dash before each item"
    return ""
