"""Plan: what is cut, over the ORIGINAL widths, with costs and without a single measured float.

Its JSON is canonical: equal plans give equal bytes. Index sets are written as inclusive ranges:
[[0, 11], [14, 63]].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "AMENDED",
    "Costs",
    "Cut",
    "Decision",
    "Interval",
    "LayerCost",
    "LayerSize",
    "Pin",
    "Plan",
    "Range",
    "Tensors",
    "Verdict",
    "indices",
    "ranges",
    "read_plan",
]

VERSION = 1
AMENDED = "plan.safetensors"
Range = tuple[int, int]
Tensors = Mapping[str, Mapping[int, tuple[Range, ...]]]


@dataclass(frozen=True)
class Costs:
    """MACs of one sample, number of parameters, and bytes of parameters and buffers."""

    macs: int
    params: int
    bytes: int


@dataclass(frozen=True)
class Cut:
    """Of the group's `width` units, those at the sorted indices `removed` go."""

    group: str
    width: int
    removed: tuple[int, ...]

    @property
    def kept(self) -> int:
        """How many units of the group stay."""
        return self.width - len(self.removed)


@dataclass(frozen=True)
class Pin:
    """Units of the group that may not be cut: indices into the group, the reason, and "file.py:12"."""

    group: str
    units: tuple[int, ...]
    reason: str
    where: str


@dataclass(frozen=True)
class LayerSize:
    """A layer's input and output width, its MACs for one sample, and its parameters."""

    inputs: int
    outputs: int
    macs: int
    params: int


@dataclass(frozen=True)
class LayerCost:
    """One weighted call site, before and after the cut."""

    name: str
    kind: str
    before: LayerSize
    after: LayerSize


@dataclass(frozen=True)
class Plan:
    """What is cut and what that saves.

    `tensors`: per changed tensor and dim the ranges that are kept, over the original width. `amended`: the tensors of
    the cut network that are not that slice of the original's; their values lie in the file AMENDED beside the plan.
    """

    cuts: tuple[Cut, ...]
    pins: tuple[Pin, ...]
    before: Costs
    after: Costs
    layers: tuple[LayerCost, ...]
    tensors: Tensors = field(hash=False)
    fingerprint: str
    amended: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The canonical text: sorted keys, no floats, a newline at the end."""
        return _write(self.to_dict()) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The data of `to_json`, in JSON's types."""
        data: dict[str, Any] = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "costs": {"before": asdict(self.before), "after": asdict(self.after)},
            "cuts": [{"group": c.group, "width": c.width, "removed": _lists(ranges(c.removed))} for c in self.cuts],
            "pins": [
                {"group": p.group, "units": _lists(ranges(p.units)), "reason": p.reason, "where": p.where}
                for p in self.pins
            ],
            "layers": [asdict(layer) for layer in self.layers],
            "tensors": {
                name: {str(dim): _lists(kept) for dim, kept in dims.items()} for name, dims in self.tensors.items()
            },
        }
        return {**data, "amended": list(self.amended)} if self.amended else data

    @staticmethod
    def from_json(text: str, where: str = "plan.json") -> Plan:
        """The plan of that text. PlanError, and no other exception, names the place in the JSON."""
        from specs.plan_reader import plan_of_json

        return plan_of_json(text, where)


def read_plan(path: str | Path) -> Plan:
    """The plan in that file. PlanError when it cannot be read or is not a plan."""
    from specs.plan_reader import text_of_plan

    return Plan.from_json(text_of_plan(Path(path)), str(path))


@dataclass(frozen=True)
class Decision:
    """Evidence for one group: the ratio accepted, the task that stopped it, each task's loss.

    `margin`: how far the accepted ratio stayed below the tolerance; `seconds`: what the search for it took;
    `rise`: of the worst task's loss when it was accepted, relative; `priced_by`: the task that its last cut cost most.
    """

    group: str
    width: int
    kept: int
    stopped_by: str | None
    ratio: float
    losses: Mapping[str, float] = field(hash=False)
    margin: float
    reason: str
    seconds: float
    rise: float = 0.0
    priced_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The data of evidence.json."""
        return {**asdict(self), "losses": dict(self.losses)}


@dataclass(frozen=True)
class Interval:
    """Of a drop in a metric, in its unit: a share 1 - confidence of the resamples lies below low, and above high.

    `of`: what was drawn, "samples" or "batches".
    """

    low: float
    high: float
    confidence: float
    resamples: int
    of: str


@dataclass(frozen=True)
class Verdict:
    """Evidence for one task: its metric on the dense network, on the cut one before recovery, and on the final one.

    For a guarantee: the worst value allowed, how far the final one (with `confidence`: its bound) stays from that, and
    the interval of the drop, or the note why there is none. Without a guarantee `allowed` is None, and nothing missed.
    """

    task: str
    metric: str
    dense: float
    pruned: float
    recovered: float
    allowed: float | None = None
    margin: float | None = None
    met: bool = True
    split: Literal["test", "validation"] = "test"
    interval: Interval | None = None
    confidence: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The data of evidence.json."""
        return asdict(self)


def ranges(indices: Iterable[int]) -> tuple[Range, ...]:
    """Ascending indices as inclusive ranges: 0 1 2 5 -> (0, 2), (5, 5). ValueError if they do not ascend."""
    found: list[list[int]] = []
    for index in map(int, indices):
        if found and index <= found[-1][1]:
            raise ValueError(f"indices must ascend, got {index} after {found[-1][1]}")
        if found and index == found[-1][1] + 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return tuple((first, last) for first, last in found)


def indices(ranges: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The inverse of `ranges`."""
    return tuple(i for first, last in ranges for i in range(first, last + 1))


def _lists(kept: Iterable[Range]) -> list[list[int]]:
    return [[int(first), int(last)] for first, last in kept]


def _write(value: Any, indent: str = "") -> str:
    """JSON with sorted keys and two spaces of indent; what holds numbers alone stands on one line."""
    inner = indent + "  "
    if isinstance(value, dict) and not all(isinstance(item, int) for item in value.values()):
        items = [f"{inner}{json.dumps(key)}: {_write(value[key], inner)}" for key in sorted(value)]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + _write(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, sort_keys=True)
