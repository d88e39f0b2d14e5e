"""What the code of forward says itself: sizes and values that a cut of the program changes, and a cut in place cannot.

Seeded probes cut a single unit, or some share of the free ones, of every group. What the calls of the program say then
is compared with what they said before, but for the attributes that a cut in place changes as well. The units that a
changed call meets are pinned, and each probe goes on among the others until it changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pagcp_ir.channels import ChannelGraph, Keep, Pin, Units
from pagcp_ir.in_place import cut_in_place
from pagcp_ir.planning import kept_ranges
from pagcp_ir.program import Program
from pagcp_ir.rewrite import materialise
from pagcp_ir.text import op_name

__all__ = ["pin_written"]

PROBES = (0.0, 0.3, 0.6, 0.0, 0.5)
"""Of a group's free units, the share that each probe cuts; one at least."""
WHY = "and finetune.trainer runs the model's own code"


def pin_written(program: Program, channels: ChannelGraph, tensors: Collection[str]) -> ChannelGraph:
    """The graph with pins on the units that only rewritten code could lose; `tensors`: names of those of the model."""
    foreign = [b for b in channels.bindings if b.tensor not in tensors]
    channels = _pinned(channels, [Pin(b.units, f"`{b.tensor}` is no tensor of the model, {WHY}", "") for b in foreign])
    for seed, share in enumerate(PROBES):
        while bool(channels.free.any()):
            more = _pinned(channels, _following(program, channels, _probe(channels, seed, share)))
            if more is channels:
                break
            channels = more
    return channels


def _pinned(channels: ChannelGraph, pins: Sequence[Pin]) -> ChannelGraph:
    """With those of the pins that hold units which were free; one reason for each unit."""
    free, found = channels.free, list[Pin]()
    for pin in pins:
        units = np.unique(pin.units[free[pin.units]])
        if units.size:
            found.append(replace(pin, units=units))
            free[units] = False
    return replace(channels, pins=(*channels.pins, *found)) if found else channels


def _probe(channels: ChannelGraph, seed: int, share: float) -> Keep:
    """A legal keep-set without that share of the free units of every group."""
    rng, keep, free = np.random.default_rng(seed), channels.all, channels.free
    for group in channels.groups:
        units = rng.permutation(group.units[free[group.units]])
        keep[units[: max(1, round(share * len(units)))]] = False
    while True:
        axes = zip(channels.distinct_axes, channels.floors, strict=True)
        short = [axis for axis, floor in axes if int(keep[axis].sum()) < floor]
        if not short:
            return keep
        for axis in short:
            keep[axis] = True


def _following(program: Program, channels: ChannelGraph, keep: Keep) -> list[Pin]:
    """A pin for every call that says something else after this cut."""
    cut = materialise(program, channels, keep).module
    twin = program.copy()
    cut_in_place(twin, kept_ranges(channels, keep))
    after = {node.name: node for node in cut.graph.nodes}
    modules, other, same = (dict(m.named_modules(remove_duplicate=False)) for m in (program.module, cut, twin))
    found = []
    for node in program.module.graph.nodes:
        if not node.op.startswith("call_") or node.name not in after:
            continue
        now = after[node.name]
        if _said(node) != _said(now) or (
            node.op == "call_module" and _attributes(same, node) != _attributes(other, now)
        ):
            reason = f"`{op_name(node, modules).lstrip('.')}` is told sizes or values that would change, {WHY}"
            found += [Pin(units, reason, node.meta.get("where", "")) for units in _met(node, channels)]
    return found


def _said(node: fx.Node) -> tuple[str, str, str, str]:
    return node.op, str(node.target), repr(node.args), repr(dict(node.kwargs))


def _attributes(modules: Mapping[str, nn.Module], node: fx.Node) -> dict[str, Any]:
    plain = (int, float, str, bool, tuple, type(None))
    own = vars(modules[str(node.target)])
    return {key: value for key, value in own.items() if isinstance(value, plain) and not key.startswith("_")}


def _met(node: fx.Node, channels: ChannelGraph) -> Iterator[Units]:
    """The units along the channel axes of what the call gives and takes, and of what its sizes were read from."""
    pending, seen = [node], set[fx.Node]()
    while pending:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        if here.name in channels.values:
            yield channels.values[here.name].units
        if here is node or not _holds_tensor(here):
            pending.extend(here.all_input_nodes)


def _holds_tensor(node: fx.Node) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(node.meta.get("value")))
