"""Reading plan.json: whatever is wrong with the text becomes a PlanError that names the place in the JSON.

Nothing is trusted: widths are bounded and checked before ranges are expanded, so that a small file cannot ask
for much memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from specs.diagnostics import PlanError, nearest
from specs.plan import VERSION, Costs, Cut, LayerCost, LayerSize, Pin, Plan, Range, indices

__all__ = ["plan_of_json", "text_of_plan"]

MAX_BYTES = 64 * 2**20
MAX_WIDTH = 2**20
MAX_INDICES = 2**21
MAX_INT = 2**63 - 1
_T = TypeVar("_T")


def text_of_plan(path: Path) -> str:
    """The text of the file. PlanError when it is missing, too large, or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise PlanError.one("L801", f"the plan cannot be read: {reason}", str(path)) from error
    if len(data) > MAX_BYTES:
        raise PlanError.one("L801", f"the plan is larger than {MAX_BYTES // 2**20} MiB", str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError.one("L801", f"the plan is not UTF-8 text (byte {error.start})", str(path)) from error


def plan_of_json(text: str, where: str) -> Plan:
    """The plan of that text, every value checked. PlanError otherwise."""
    place = _Place(where, "", _parsed(text, where))
    place.check_version()
    needed = ("version", "fingerprint", "costs", "cuts", "pins", "layers", "tensors")
    top = place.fields(*needed, optional=("amended",))
    costs = top["costs"].fields("before", "after")
    budget = _Budget(MAX_INDICES)
    plan = Plan(
        cuts=tuple(_cut(item, budget) for item in top["cuts"].items()),
        pins=tuple(_pin(item, budget) for item in top["pins"].items()),
        before=_costs(costs["before"]),
        after=_costs(costs["after"]),
        layers=tuple(_layer(item) for item in top["layers"].items()),
        tensors={name: _dims(dims) for name, dims in top["tensors"].entries()},
        fingerprint=top["fingerprint"].text(),
        amended=_names(top["amended"]) if "amended" in top else (),
    )
    _each_once(top["cuts"], [cut.group for cut in plan.cuts])
    return plan


class _Budget:
    """How many indices may still be expanded from ranges."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, place: _Place, ranges: tuple[Range, ...]) -> tuple[int, ...]:
        self.left -= sum(last - first + 1 for first, last in ranges)
        if self.left < 0:
            place.refuse("asks for more indices than a plan may hold")
        return indices(ranges)


class _Place:
    """A value and its place in the JSON: every reader checks the type and refuses with the place."""

    def __init__(self, where: str, path: str, value: Any) -> None:
        self.where, self.path, self.value = where, path, value

    def refuse(self, problem: str, hint: str = "", code: str = "L802") -> NoReturn:
        raise PlanError.one(code, f"{self.path or 'the plan'} {problem}", self.where, hint)

    def inside(self, key: str | int, value: Any) -> _Place:
        if isinstance(key, str) and re.fullmatch(r"\w+", key):
            return _Place(self.where, f"{self.path}.{key}".lstrip("."), value)
        return _Place(self.where, f"{self.path}[{json.dumps(key)}]", value)

    def expect(self, kind: type[_T], name: str) -> _T:
        if not isinstance(self.value, kind) or isinstance(self.value, bool):
            self.refuse(f"must be {name}, got {_shown(self.value)}")
        return self.value

    def integer(self, least: int = 0, most: int = MAX_INT) -> int:
        number = self.expect(int, "a whole number")
        if not least <= number <= most:
            self.refuse(f"must be from {least} to {most}, got {_shown(number)}")
        return number

    def text(self) -> str:
        text = self.expect(str, "a string")
        if any("\ud800" <= c <= "\udfff" for c in text):
            self.refuse("must be text, got half of a surrogate pair")
        return text

    def items(self) -> Iterator[_Place]:
        for index, value in enumerate(self.expect(list, "a list")):
            yield self.inside(index, value)

    def entries(self) -> Iterator[tuple[str, _Place]]:
        for key, value in self.expect(dict, "an object").items():
            _Place(self.where, f"a key of {self.path}", key).text()
            yield key, self.inside(key, value)

    def fields(self, *names: str, optional: tuple[str, ...] = ()) -> dict[str, _Place]:
        """The fields of an object that has exactly these, and may have the optional ones."""
        found = dict(self.entries())
        for name in found:
            if name not in (*names, *optional):
                self.refuse(f"has an unknown key {_shown(name)}", nearest(name, (*names, *optional)))
        for name in names:
            if name not in found:
                self.refuse(f"has no key {name}")
        return found

    def check_version(self) -> None:
        """First of all, because another version may have other fields."""
        version = dict(self.entries()).get("version")
        if version is not None and version.integer() != VERSION:
            version.refuse(f"must be {VERSION}, got {version.value}", code="L803")

    def ranges(self, width: int) -> tuple[Range, ...]:
        """Ascending inclusive ranges below `width` with gaps between, so that equal sets are written alike."""
        found: list[Range] = []
        for item in self.items():
            pair = [number.integer(0, width - 1) for number in item.items()]
            if len(pair) != 2 or pair[0] > pair[1]:
                item.refuse(f"must be a range [first, last], got {pair}")
            if found and pair[0] <= found[-1][1] + 1:
                item.refuse("must start above the range before it, with a gap")
            found.append((pair[0], pair[1]))
        return tuple(found)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_real
        )
    except json.JSONDecodeError as error:
        problem = error.msg[:1].lower() + error.msg[1:]
        place = f"{where}:{error.lineno}:{error.colno}"
        raise PlanError.one("L801", f"the plan is not valid JSON: {problem}", place) from error
    except RecursionError as error:
        raise PlanError.one("L801", "the plan is not valid JSON: nested too deeply", where) from error
    except _Refused as error:
        raise PlanError.one("L801", f"the plan is not valid JSON: {error}", where) from error


class _Refused(Exception):
    """JSON that the standard library would accept."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"the key {_shown(key)} occurs twice in one object")
        found[key] = value
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a number that JSON has")


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise _Refused(f"a number of {len(digits)} digits is too large")
    return int(digits)


def _real(digits: str) -> float:
    raise _Refused(f"plans hold whole numbers only, got {digits[:20]}")


def _shown(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _cut(place: _Place, budget: _Budget) -> Cut:
    parts = place.fields("group", "width", "removed")
    width = parts["width"].integer(1, MAX_WIDTH)
    removed = budget.spend(parts["removed"], parts["removed"].ranges(width))
    return Cut(parts["group"].text(), width, removed)


def _pin(place: _Place, budget: _Budget) -> Pin:
    parts = place.fields("group", "units", "reason", "where")
    units = budget.spend(parts["units"], parts["units"].ranges(MAX_WIDTH))
    return Pin(parts["group"].text(), units, parts["reason"].text(), parts["where"].text())


def _costs(place: _Place) -> Costs:
    return Costs(**{name: part.integer() for name, part in place.fields("macs", "params", "bytes").items()})


def _size(place: _Place) -> LayerSize:
    parts = place.fields("inputs", "outputs", "macs", "params")
    return LayerSize(**{name: part.integer() for name, part in parts.items()})


def _layer(place: _Place) -> LayerCost:
    parts = place.fields("name", "kind", "before", "after")
    return LayerCost(parts["name"].text(), parts["kind"].text(), _size(parts["before"]), _size(parts["after"]))


def _dims(place: _Place) -> dict[int, tuple[Range, ...]]:
    found: dict[int, tuple[Range, ...]] = {}
    for key, kept in place.entries():
        if not re.fullmatch(r"0|[1-9][0-9]?", key):
            place.refuse(f"has the key {_shown(key)}, which is not a dim")
        found[int(key)] = kept.ranges(MAX_WIDTH)
    return found


def _names(place: _Place) -> tuple[str, ...]:
    """Names in their order, each once, so that equal sets are written alike."""
    found = tuple(item.text() for item in place.items())
    if not found or list(found) != sorted(set(found)):
        place.refuse("must be names in their order, each once, and at least one")
    return found


def _each_once(place: _Place, groups: list[str]) -> None:
    seen: set[str] = set()
    for group in groups:
        if group in seen:
            place.refuse(f"has the group {_shown(group)} twice")
        seen.add(group)
