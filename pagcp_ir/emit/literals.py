"""Python values as source text that needs only torch."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch

from pagcp_ir.emit.layout import Bracket, Doc, call

__all__ = ["Unprintable", "literal"]


class Unprintable(Exception):
    """A value, function or module that no source text stands for; the message says why, `where` on which line."""

    where = ""


def literal(value: Any) -> Doc:
    """The text of a constant. Raises Unprintable for anything that is not plain data."""
    if value is None or value is Ellipsis or type(value) in (bool, int):
        return "..." if value is Ellipsis else repr(value)
    if type(value) is float:
        return repr(value) if isfinite(value) else f'float("{value}")'
    if type(value) is str:
        return _quoted(value)
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, Mapping):
        return Bracket("{", tuple((literal(k), ": ", literal(v)) for k, v in value.items()), "}")
    if isinstance(value, tuple):
        return Bracket("(", tuple(literal(v) for v in value), ")", is_tuple=True)
    if isinstance(value, list):
        return Bracket("[", tuple(literal(v) for v in value), "]")
    if isinstance(value, slice):
        return call("slice", [literal(v) for v in (value.start, value.stop, value.step)])
    if isinstance(value, range):
        return repr(value)
    raise Unprintable(f"a value of type {type(value).__name__} is not a literal")


def _quoted(text: str) -> str:
    quoted = repr(text)
    plain = quoted[0] == "'" and '"' not in text and "'" not in text
    return f'"{quoted[1:-1]}"' if plain else quoted
