"""What `inspect` finds: every group of channels, what it is coupled with and why, what is pinned by what, where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagcp_cli.network import open_network
from pagcp_ir.channels import ChannelGraph, Group, Units
from pagcp_ir.cost import costs, layer_costs
from pagcp_ir.coupling import Coupling, couplings
from pagcp_ir.dot import channel_dot
from pagcp_ir.planning import make_plan
from pagcp_ir.program import Program
from specs.plan import Costs, Plan
from specs.spec import Spec

__all__ = ["Inspection", "SeenGroup", "SeenLayer", "SeenPin", "Share", "inspect_spec"]


@dataclass(frozen=True)
class SeenPin:
    """`count` units of a group that may not be cut."""

    count: int
    reason: str
    where: str


@dataclass(frozen=True)
class SeenLayer:
    """A layer whose tensors follow the width of a group; `kind`: its type, with `depthwise` or the number of parts."""

    name: str
    kind: str


@dataclass(frozen=True)
class SeenGroup:
    """One width of the network: the length of its first producer's output, in `units` that live or die together.

    `producers` make these channels, `couplings` tell why they share them; `carriers` (norms, depthwise convolutions,
    scales) pass them on with one entry per channel; `readers` take them in. `parts`: of grouped producers, how many
    parts keep equal counts. `macs`: of all layers that make, carry or read the group; a layer between two groups
    counts for both.
    """

    name: str
    where: str
    width: int
    units: int
    free: int
    producers: tuple[str, ...]
    couplings: tuple[Coupling, ...]
    parts: Mapping[str, int]
    carriers: tuple[SeenLayer, ...]
    readers: tuple[str, ...]
    pins: tuple[SeenPin, ...]
    macs: int


@dataclass(frozen=True)
class Share:
    """`prunable`: MACs of layers on which at least one unit that may be cut occurs, of `total`."""

    prunable: int
    total: int


@dataclass(frozen=True)
class Inspection:
    """`route` and `notes`: how it was traced, and what came of that; `kept_whole`: modules that could not be, and why.

    `plan` is the empty plan.
    """

    model: str
    route: str
    notes: tuple[str, ...]
    kept_whole: tuple[str, ...]
    groups: tuple[SeenGroup, ...]
    units: int
    free: int
    costs: Costs
    macs: Share
    conv_macs: Share
    plan: Plan = field(repr=False)
    program: Program = field(repr=False)
    channels: ChannelGraph = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The data of `--json`: every fact, in full."""
        kept = ("model", "route", "notes", "kept_whole", "units", "free")
        data = ("groups", "costs", "macs", "conv_macs")
        return {
            **{name: getattr(self, name) for name in kept},
            **{name: _plain(getattr(self, name)) for name in data},
        }

    def graph(self, form: str) -> str:
        """The network as text: `text` prints every value of the program, `dot` the layers for Graphviz."""
        return self.program.text() if form == "text" else channel_dot(self.program, self.channels)


def _plain(value: Any) -> Any:
    return [asdict(item) for item in value] if isinstance(value, tuple) else asdict(value)


def inspect_spec(spec: Spec) -> Inspection:
    """Trace and analyse the network of the spec; nothing is evaluated and no data is read.

    Raises what opening the network raises: DataError, TraceError, GraphError.
    """
    program, channels = open_network(spec)
    groups = _groups(program, channels)
    whole = {str(node.target) for node in program.module.graph.nodes if "opaque" in node.meta}
    kept = tuple(note for note in program.notes if note.partition(": ")[0] in whole)
    return Inspection(
        model=str(program.module.meta.get("name", "")),
        route=program.route,
        notes=tuple(note for note in program.notes if note not in kept),
        kept_whole=kept,
        groups=groups,
        units=sum(g.units for g in groups),
        free=sum(g.free for g in groups),
        costs=costs(channels),
        macs=_share(channels, ""),
        conv_macs=_share(channels, "conv"),
        plan=make_plan(program, channels, channels.all),
        program=program,
        channels=channels,
    )


def _share(channels: ChannelGraph, kind: str) -> Share:
    """Over the layers whose kind starts with `kind`."""
    free, prunable, total = channels.free, 0, 0
    for layer, row in zip(channels.layers, layer_costs(channels, channels.all), strict=True):
        if layer.kind.lower().startswith(kind):
            total += row.before.macs
            prunable += row.before.macs * bool(free[layer.inputs].any() or free[layer.outputs].any())
    return Share(prunable, total)


def _groups(program: Program, channels: ChannelGraph) -> tuple[SeenGroup, ...]:
    reasons, rows = couplings(channels), layer_costs(channels, channels.all)
    owner = np.full(channels.n_units, -1)
    for number, group in enumerate(channels.groups):
        owner[group.units] = number
    macs, parts = [0] * len(channels.groups), [dict[str, int]() for _ in channels.groups]
    for layer, row in zip(channels.layers, rows, strict=True):
        for number in _touched(owner, layer.inputs, layer.outputs):
            macs[number] += row.before.macs
        if layer.parts > 1:
            for number in _touched(owner, layer.outputs):
                parts[number][layer.name] = layer.parts
    carriers = _carriers(program, channels, owner)
    return tuple(
        SeenGroup(
            name=group.name,
            where=group.where,
            width=channels.of(group, "out")[0].units.size,
            units=int(group.units.size),
            free=int(channels.free[group.units].sum()),
            producers=group.producers,
            couplings=reasons[group.name],
            parts=parts[number],
            carriers=tuple(SeenLayer(name, kind) for name, kind in carriers[number].items()),
            readers=group.readers,
            pins=_pins(channels, group),
            macs=macs[number],
        )
        for number, group in enumerate(channels.groups)
    )


def _touched(owner: NDArray[np.int64], *units: Units) -> list[int]:
    """The groups, by number, to which any of the units belong."""
    return [int(n) for n in np.unique(owner[np.concatenate(units)]) if n >= 0]


def _carriers(program: Program, channels: ChannelGraph, owner: NDArray[np.int64]) -> list[dict[str, str]]:
    """By group, what has one entry per channel without making it: the name, and its kind."""
    modules = dict(program.module.named_modules())
    kinds = {n.target: type(modules[n.target]).__name__ for n in program.module.graph.nodes if n.op == "call_module"}
    layers = {tensor: layer for layer in channels.layers for tensor in layer.tensors}
    found = [dict[str, str]() for _ in channels.groups]
    for binding in channels.bindings:
        if binding.role != "along":
            continue
        layer, path = layers.get(binding.tensor), binding.tensor.rpartition(".")[0]
        if layer is None:
            name, kind = (path, kinds[path]) if path in kinds else (binding.tensor, "tensor")
        elif layer.per_channel:
            name, kind = layer.name, f"depthwise {layer.kind}"
        else:
            continue  # a producer's bias
        for number in _touched(owner, binding.units):
            found[number].setdefault(name, kind)
    return found


def _pins(channels: ChannelGraph, group: Group) -> tuple[SeenPin, ...]:
    counted = [(int(np.isin(pin.units, group.units).sum()), pin) for pin in channels.pins]
    return tuple(SeenPin(count, pin.reason, pin.where) for count, pin in counted if count)
