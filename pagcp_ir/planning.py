"""Between keep-sets (bool [n_units]) and plans: what a plan says, whether a keep-set is legal."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from pagcp_ir.channels import ChannelGraph, Group, Keep
from pagcp_ir.cost import costs, layer_costs
from pagcp_ir.program import Program
from specs.diagnostics import Diagnostic, GraphError, PlanError, nearest
from specs.plan import Cut, Pin, Plan, Range, ranges

__all__ = ["fingerprint", "keep_of", "kept_ranges", "legal", "make_plan", "require_free_units"]


def make_plan(program: Program, channels: ChannelGraph, keep: Keep) -> Plan:
    """The plan that keeps exactly these units. `program` and `channels` are the ORIGINAL ones."""
    return Plan(
        cuts=tuple(cut for group in channels.groups if (cut := _cut(group, keep)).removed),
        pins=_pins(channels),
        before=costs(channels),
        after=costs(channels, keep),
        layers=layer_costs(channels, keep),
        tensors=kept_ranges(channels, keep),
        fingerprint=fingerprint(program),
    )


def keep_of(channels: ChannelGraph, plan: Plan) -> Keep:
    """The units that a plan keeps: bool [n_units]. PlanError L805 when it does not fit this graph."""
    keep = channels.all
    names = [g.name for g in channels.groups]
    for cut in plan.cuts:
        if cut.group not in names:
            hint = nearest(cut.group, names)
            raise PlanError.one("L805", f"the plan cuts group `{cut.group}`, which this network lacks", hint=hint)
        group = channels.group(cut.group)
        if cut.width != group.units.size or any(not 0 <= i < cut.width for i in cut.removed):
            raise PlanError.one(
                "L805",
                f"the plan has group `{cut.group}` at width {cut.width}, the network {group.units.size}",
            )
        keep[group.units[list(cut.removed)]] = False
    return keep


def legal(channels: ChannelGraph, keep: Keep, min_channels: int = 1) -> bool:
    """Whether only free units are cut and every axis, of a tensor or an activation, keeps enough channels."""
    if bool((~keep & ~channels.free).any()):
        return False
    floors = zip(channels.distinct_axes, channels.floors, strict=True)
    return all(int(keep[axis].sum()) >= max(floor, min(min_channels, axis.size)) for axis, floor in floors)


def require_free_units(channels: ChannelGraph) -> None:
    """Raise GraphError G301, with the reason and source line per group, when nothing may be cut."""
    if bool(channels.free.any()):
        return
    reasons = {pin.group: pin for pin in reversed(_pins(channels))}
    found = [Diagnostic("G301", "nothing may be cut: the network has no layer that makes channels")]
    for group in channels.groups:
        pin = reasons[group.name]
        found.append(
            Diagnostic(
                "G301",
                f"group `{group.name}` ({group.units.size} channels) is pinned: {pin.reason}",
                where=pin.where or group.where,
            )
        )
    raise GraphError(found[1:] or found)


def fingerprint(program: Program) -> str:
    """sha256 over the sorted tensor names with their bytes, and the graph's text."""
    digest = hashlib.sha256()
    for name, tensor in sorted(program.tensors().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    digest.update(program.text().encode())
    return f"sha256:{digest.hexdigest()}"


def _cut(group: Group, keep: Keep) -> Cut:
    removed = np.flatnonzero(~keep[group.units])
    return Cut(group.name, int(group.units.size), tuple(int(i) for i in removed))


def _pins(channels: ChannelGraph) -> tuple[Pin, ...]:
    found = []
    for group in channels.groups:
        for pin in channels.pins:
            inside = np.flatnonzero(np.isin(group.units, pin.units))
            if inside.size:
                found.append(Pin(group.name, tuple(int(i) for i in inside), pin.reason, pin.where))
    return tuple(found)


def kept_ranges(channels: ChannelGraph, keep: Keep) -> dict[str, dict[int, tuple[Range, ...]]]:
    """Per changed tensor and dim the kept index ranges over the original width."""
    found: dict[str, dict[int, tuple[Range, ...]]] = {}
    for binding in channels.bindings:
        alive = keep[binding.units]
        if not alive.all():
            found.setdefault(binding.tensor, {})[binding.dim] = ranges(int(i) for i in np.flatnonzero(alive))
    return found
