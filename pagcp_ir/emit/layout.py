"""Lay source text out: a bracket that does not fit on its line is opened, one item a line, as ruff would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Union

__all__ = ["WIDTH", "Bracket", "Doc", "call", "flat", "lines"]

WIDTH = 100


@dataclass(frozen=True)
class Bracket:
    """`open item, item close`. A tuple of one item keeps its comma."""

    open: str
    items: tuple[Doc, ...]
    close: str
    is_tuple: bool = False


Doc = Union[str, Bracket, tuple["Doc", ...]]  # noqa: UP007 (refers to itself)
"""A text, a bracket that may be broken, or a sequence of such."""


def call(function: Doc, args: Sequence[Doc]) -> Doc:
    """`function(arg, arg)`."""
    return (function, Bracket("(", tuple(args), ")"))


def flat(doc: Doc) -> str:
    """All of it on one line."""
    if isinstance(doc, str):
        return doc
    if isinstance(doc, tuple):
        return "".join(flat(part) for part in doc)
    comma = "," if doc.is_tuple and len(doc.items) == 1 else ""
    return doc.open + ", ".join(flat(item) for item in doc.items) + comma + doc.close


def lines(doc: Doc, indent: int = 0, after: str = "") -> list[str]:
    """The text in lines of at most WIDTH columns where brackets allow it, indented by `indent` spaces."""
    pad = " " * indent
    whole = flat(doc) + after
    parts = tuple(_parts(doc))
    breakable = [i for i, part in enumerate(parts) if isinstance(part, Bracket) and part.items]
    if indent + len(whole) <= WIDTH or not breakable:
        return [pad + whole]
    at = breakable[-1]
    bracket = parts[at]
    assert isinstance(bracket, Bracket)
    comma = "," if len(bracket.items) > 1 or bracket.is_tuple else ""
    inside = [line for item in bracket.items for line in lines(item, indent + 4, comma)]
    head = pad + flat(parts[:at]) + bracket.open
    return [head, *inside, pad + bracket.close + flat(parts[at + 1 :]) + after]


def _parts(doc: Doc) -> Iterator[str | Bracket]:
    if isinstance(doc, tuple):
        for part in doc:
            yield from _parts(part)
    else:
        yield doc
