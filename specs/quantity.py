"""Quantities as people write them: 40%, 1pp, 1.2G, 5M, 20MB, 8ms, 0.5. Exact: str(parse(text)) parses to itself.

A share p% of n whole things is floor(n * p / 100), computed in rationals, so that 40% of 10 is 4 on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args

from specs.node import kind, shown

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

__all__ = ["NOT_ABOVE_ALL", "Kind", "Quantity", "json_schema"]

Kind = Literal["percent", "points", "absolute", "bytes", "seconds"]

# unit -> what it measures, and how many of the base unit it is
_UNITS: dict[str, tuple[Kind, Fraction]] = {
    "": ("absolute", Fraction(1)),
    "K": ("absolute", Fraction(10**3)),
    "M": ("absolute", Fraction(10**6)),
    "G": ("absolute", Fraction(10**9)),
    "T": ("absolute", Fraction(10**12)),
    "%": ("percent", Fraction(1)),
    "pp": ("points", Fraction(1)),
    "B": ("bytes", Fraction(1)),
    "KB": ("bytes", Fraction(10**3)),
    "MB": ("bytes", Fraction(10**6)),
    "GB": ("bytes", Fraction(10**9)),
    "KiB": ("bytes", Fraction(2**10)),
    "MiB": ("bytes", Fraction(2**20)),
    "GiB": ("bytes", Fraction(2**30)),
    "us": ("seconds", Fraction(1, 10**6)),
    "ms": ("seconds", Fraction(1, 10**3)),
    "s": ("seconds", Fraction(1)),
}
# what people write, and what they may mean
_MEANT = {
    "p": ("pp", "%"),
    "pt": ("pp",),
    "pts": ("pp",),
    "ppt": ("pp",),
    "point": ("pp",),
    "points": ("pp",),
    "pc": ("%",),
    "pct": ("%",),
    "percent": ("%",),
    "mill": ("M",),
    "million": ("M",),
    "bn": ("G",),
    "billion": ("G",),
    "sec": ("s",),
    "msec": ("ms",),
}
_TEXT = re.compile(r"([+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?)\s*(%|[A-Za-z]*)")
NOT_ABOVE_ALL = {
    "not": {"type": "string", "pattern": r"^\s*\+?0*([2-9][0-9]{2}|1[0-9][1-9]|1[1-9]0|[0-9]{4,})(\.[0-9]*)?\s*%\s*$"}
}
"""As JSON schema: no share above 100%."""
_NUMBER = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"


class _Unknown(ValueError):
    """A unit that is none, and what is meant, perhaps."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Quantity:
    """A number with its unit, as written. ValueError (with a message for people) when it cannot be read."""

    value: float
    unit: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"must be finite, got {self.value}")
        if self.unit not in _UNITS:
            raise _unknown_unit(f"{self.value:g}", self.unit)

    @staticmethod
    def parse(text: str | int | float) -> Quantity:
        """The quantity of a YAML scalar: a number, or text such as 40% or 1.2G."""
        if isinstance(text, (int, float)):
            try:
                return Quantity(float(text))
            except OverflowError:
                raise ValueError("must be finite") from None
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"must be a quantity such as 40%, 1pp, 1.2G, 20MB or 0.5, got {shown(text)}")
        return Quantity(float(match[1]), match[2])

    def __str__(self) -> str:
        whole = self.value.is_integer() and abs(self.value) < 1e15
        return f"{int(self.value) if whole else repr(self.value)}{self.unit}"

    @property
    def kind(self) -> Kind:
        """What it measures; counts and plain numbers are "absolute"."""
        return _UNITS[self.unit][0]

    @property
    def exact(self) -> Fraction:
        """In the base unit of its kind: percent, points, ones, bytes, seconds."""
        return Fraction(repr(self.value)) * _UNITS[self.unit][1]

    @property
    def base(self) -> float:
        """`exact` as a float."""
        return float(self.exact)

    def limit(self, original: int) -> int:
        """The largest whole number that this allows: a share of `original`, or itself where it is not a share."""
        share = self.exact * original / 100 if self.kind == "percent" else self.exact
        return math.floor(share)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            _validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return json_schema()


def json_schema(kinds: Sequence[Kind] = get_args(Kind)) -> dict[str, Any]:
    """What a quantity of these kinds looks like in YAML."""
    units = "|".join(unit for unit, (kind, _) in _UNITS.items() if kind in kinds and unit)
    optional = "?" if "absolute" in kinds else ""
    text = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*({units}){optional}\s*$"}
    return {"anyOf": [{"type": "number"}, text]} if optional else text


def _validate(value: Any) -> Quantity:
    from specs.model import Problem

    if isinstance(value, Quantity):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Problem("S105", f"must be a quantity such as 40%, 1.2G or 0.5, got {kind(value)}").error
    try:
        return Quantity.parse(value)
    except ValueError as error:
        raise Problem("S109", str(error), getattr(error, "hint", "")).error from error


def _unknown_unit(number: str, unit: str) -> _Unknown:
    same = [known for known in _UNITS if known.lower() == unit.lower()]
    if same:
        return _Unknown(f"has the unit {unit}, but case matters: write {same[0]}", "")
    meant = _MEANT.get(unit.lower())
    if meant:
        return _Unknown(f"has an unknown unit {unit}", f"did you mean {' or '.join(number + each for each in meant)}?")
    return _Unknown(f"has an unknown unit {unit[:20]}; known: {', '.join(filter(None, _UNITS))}", "")
