"""What `inspect` finds: every group of channels, what it is coupled with, what is pinned and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pagcp_cli.network import open_network
from pagcp_ir.channels import ChannelGraph, Group
from pagcp_ir.cost import costs, prunable_macs
from pagcp_ir.planning import make_plan
from specs.plan import Costs, Plan
from specs.spec import Spec

__all__ = ["Inspection", "SeenGroup", "SeenPin", "inspect_spec"]


@dataclass(frozen=True)
class SeenPin:
    """`count` units of a group that may not be cut."""

    count: int
    reason: str
    where: str


@dataclass(frozen=True)
class SeenGroup:
    """`prunable_macs`: what cutting all of its free units but one would save, all else kept."""

    name: str
    where: str
    width: int
    free: int
    producers: tuple[str, ...]
    readers: tuple[str, ...]
    coupled: tuple[str, ...]
    pins: tuple[SeenPin, ...]
    prunable_macs: int


@dataclass(frozen=True)
class Inspection:
    """`prunable_macs`: of layers with at least one unit that may be cut. `plan` is the empty plan."""

    groups: tuple[SeenGroup, ...]
    units: int
    free: int
    costs: Costs
    prunable_macs: int
    notes: tuple[str, ...]
    plan: Plan = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The data of `--json`: everything but the plan."""
        return {
            "groups": [asdict(group) for group in self.groups],
            "units": self.units,
            "free": self.free,
            "costs": asdict(self.costs),
            "prunable_macs": self.prunable_macs,
            "notes": list(self.notes),
        }


def inspect_spec(spec: Spec) -> Inspection:
    """Trace and analyse the network of the spec; nothing is evaluated and no data is read.

    Raises what opening the network raises: DataError, TraceError, GraphError.
    """
    program, channels = open_network(spec)
    groups = tuple(_seen(channels, group) for group in channels.groups)
    return Inspection(
        groups=groups,
        units=sum(g.width for g in groups),
        free=sum(g.free for g in groups),
        costs=costs(channels),
        prunable_macs=prunable_macs(channels),
        notes=program.notes,
        plan=make_plan(program, channels, channels.all),
    )


def _seen(channels: ChannelGraph, group: Group) -> SeenGroup:
    free = channels.free[group.units]
    pins = [(int(np.isin(group.units, pin.units).sum()), pin) for pin in channels.pins]
    least = channels.all
    least[group.units[free][1:]] = False
    return SeenGroup(
        name=group.name,
        where=group.where,
        width=int(group.units.size),
        free=int(free.sum()),
        producers=group.producers,
        readers=group.readers,
        coupled=tuple(p for p in group.producers if p != group.name),
        pins=tuple(SeenPin(count, pin.reason, pin.where) for count, pin in pins if count),
        prunable_macs=costs(channels).macs - costs(channels, least).macs,
    )
