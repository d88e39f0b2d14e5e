"""Two networks side by side, layer by layer: pure data, whatever the networks were read from.

Layers are matched by name; the k-th call of a layer that is called several times with the k-th. Rows stand in the
order of the first network, and an added row after the one that precedes it in the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from specs.plan import Costs, Plan

__all__ = ["Change", "Diff", "DiffRow", "GraphSummary", "LayerRow", "diff", "summary_of_plan"]

Change = Literal["same", "changed", "added", "removed"]
_Call = tuple[str, int]


@dataclass(frozen=True)
class LayerRow:
    """A weighted layer: input and output width, MACs of one sample, parameters, and their bytes where known.

    `macs` is None where the file leaves sizes open that they depend on.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    macs: int | None
    params: int
    bytes: int | None = None


@dataclass(frozen=True)
class GraphSummary:
    """A network as `diff` sees it; `notes`: what a person should know of its figures."""

    title: str
    layers: tuple[LayerRow, ...]
    costs: Costs
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DiffRow:
    """A layer in both networks; `before` is None when it was added, `after` when it was removed."""

    name: str
    kind: str
    change: Change
    before: LayerRow | None
    after: LayerRow | None


@dataclass(frozen=True)
class Diff:
    """All layers of two networks, and what the networks cost."""

    rows: tuple[DiffRow, ...]
    before: Costs
    after: Costs
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether nothing differs that is compared: layers, widths, costs; not what tensors hold."""
        return self.before == self.after and all(row.change == "same" for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The same data in JSON's types."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], "equal": self.equal}


def summary_of_plan(plan: Plan, side: Literal["before", "after"]) -> GraphSummary:
    """The network that the plan was made for, or the one that it makes."""
    sizes = ((layer, layer.before if side == "before" else layer.after) for layer in plan.layers)
    rows = (LayerRow(layer.name, layer.kind, s.inputs, s.outputs, s.macs, s.params) for layer, s in sizes)
    return GraphSummary(side, tuple(rows), plan.before if side == "before" else plan.after)


def diff(a: GraphSummary, b: GraphSummary) -> Diff:
    """What changes from `a` to `b`. Bytes of layers are told only where both networks tell them."""
    told = all(row.bytes is not None for side in (a, b) for row in side.layers)
    before, after = (_calls(side.layers if told else _without_bytes(side.layers)) for side in (a, b))
    rows = tuple(_row(before.get(call), after.get(call)) for call in _order(before, after))
    return Diff(rows, a.costs, b.costs, tuple(f"{side.title}: {note}" for side in (a, b) for note in side.notes))


def _without_bytes(layers: Iterable[LayerRow]) -> Iterable[LayerRow]:
    return (replace(layer, bytes=None) for layer in layers)


def _calls(layers: Iterable[LayerRow]) -> dict[_Call, LayerRow]:
    """The layers by name and number of the call."""
    seen: Counter[str] = Counter()
    found: dict[_Call, LayerRow] = {}
    for layer in layers:
        found[layer.name, seen[layer.name]] = layer
        seen[layer.name] += 1
    return found


def _order(before: Iterable[_Call], after: Iterable[_Call]) -> list[_Call]:
    """All calls: those of `before` in their order, the others each after its predecessor in `after`."""
    order = list(before)
    known = set(order)
    place = 0
    for call in after:
        if call in known:
            place = order.index(call) + 1
        else:
            order.insert(place, call)
            place += 1
    return order


def _row(before: LayerRow | None, after: LayerRow | None) -> DiffRow:
    layer = after or before
    assert layer is not None
    change: Change
    if before is None:
        change = "added"
    elif after is None:
        change = "removed"
    else:
        change = "same" if before == after else "changed"
    return DiffRow(layer.name, layer.kind, change, before, after)
