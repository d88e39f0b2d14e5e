"""JSON objects as the dataclasses that they were written from; floats that JSON does not have were written as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

__all__ = ["row_of"]

_T = TypeVar("_T")


def row_of(cls: type[_T], row: Mapping[str, Any]) -> _T:
    """The row's fields that `cls` knows. KeyError names one that it lacks and that has no default."""
    known = {f.name: f for f in fields(cls) if f.name in row}  # type: ignore[arg-type]
    found = {name: _value(row[name], str(field.type)) for name, field in known.items()}
    try:
        return cls(**found)
    except TypeError:
        lacking = next((f.name for f in fields(cls) if f.name not in found), cls.__name__)  # type: ignore[arg-type]
        raise KeyError(lacking) from None


def _value(value: Any, kind: str) -> Any:
    if value is None or "float" not in kind:
        return value
    return {str(key): float(item) for key, item in value.items()} if isinstance(value, Mapping) else float(value)
