"""What a first spec of a network says: its outputs, the layers that serve one of them alone, a budget in reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, fx

from pagcp_cli.inspection import Inspection, inspect_spec
from pagcp_ir.channels import ChannelGraph
from pagcp_ir.cost import costs
from pagcp_ir.emit.base import named_outputs
from pagcp_ir.planning import require_free_units
from pagcp_ir.program import TRACE_BATCH, Program
from pagcp_ir.text import type_text
from passes.ratios import Cutter
from specs.options import UniformOptions
from specs.spec import Spec

__all__ = ["Head", "Outline", "SeenOutput", "outline"]

_HALF = 0.5
_ROOM = 0.05


@dataclass(frozen=True)
class Head:
    """The layers from which one output alone is made: globs that match them and no others, how many, their MACs."""

    globs: tuple[str, ...]
    layers: int
    macs: int


@dataclass(frozen=True)
class SeenOutput:
    """One tensor of what the network returns, N of its batch; `head`: None where it has no layers of its own."""

    name: str
    type: str
    shape: tuple[int, ...]
    head: Head | None


@dataclass(frozen=True)
class Outline:
    """`budget`: the cost to limit ("macs" or "params"), and the percentage to keep, which `uniform` can reach."""

    spec: Spec
    found: Inspection
    outputs: tuple[SeenOutput, ...]
    bare: bool
    budget: tuple[str, float]


def outline(spec: Spec) -> Outline:
    """Trace and analyse the network of the spec. Raises what opening it raises, and G301 where nothing may be cut."""
    found = inspect_spec(spec)
    require_free_units(found.channels)
    (returned,) = (node.args[0] for node in found.program.module.graph.nodes if node.op == "output")
    outputs = _outputs(found.program, found.channels, returned)
    return Outline(spec, found, outputs, isinstance(returned, fx.Node), _budget(found.channels))


def _outputs(program: Program, channels: ChannelGraph, returned: object) -> tuple[SeenOutput, ...]:
    """The tensors of the output with their names. A layer is an output's own if it leads to no other."""
    leaves = [(name, node) for name, node in named_outputs(returned) if _is_tensor(node)]
    above = {name: _ancestors(node) for name, node in leaves}
    found = []
    for name, node in leaves:
        others = set[str]().union(*(above[other] for other in above if other != name))
        head = _head(channels, above[name] - others)
        value = node.meta["value"]
        shape = tuple(int(size) for size in value.shape)
        kind = type_text(value).replace(f"[{TRACE_BATCH}", "[N", 1)
        found.append(SeenOutput(name, kind, shape, head))
    return tuple(found)


def _is_tensor(node: object) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("value"), Tensor)


def _ancestors(node: fx.Node) -> set[str]:
    """The names of all nodes that the value is made of, its own included."""
    found, waiting = set[str](), [node]
    while waiting:
        here = waiting.pop()
        if here.name not in found:
            found.add(here.name)
            waiting += here.all_input_nodes
    return found


def _head(channels: ChannelGraph, nodes: set[str]) -> Head | None:
    """The head among these nodes; of a network with one output the module that its last layer stands in."""
    every = [layer.name for layer in channels.layers]
    called = {layer.name for layer in channels.layers if layer.node in nodes}
    shared = {layer.name for layer in channels.layers if layer.node not in nodes}
    own = [name for name in dict.fromkeys(every) if name in called - shared]
    if own and len(own) == len(set(every)):
        module = own[-1].partition(".")[0]
        own = [name for name in own if name.partition(".")[0] == module]
    if not own or len(own) == len(set(every)):
        return None
    sizes = _macs(channels)
    return Head(tuple(_globs(own, every)), len(own), sum(sizes[name] for name in own))


def _macs(channels: ChannelGraph) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for layer in channels.layers:
        pairs = layer.outputs.size if layer.per_channel else layer.inputs.size * layer.outputs.size // layer.parts
        found[layer.name] = found.get(layer.name, 0) + layer.factor * int(pairs)
    return found


def _globs(own: Sequence[str], every: Iterable[str], prefix: str = "") -> Iterable[str]:
    """The fewest names and globs `module.*` that match all of `own` and no other layer."""
    others = [name for name in every if name not in own]
    for part in dict.fromkeys(name.removeprefix(prefix).partition(".")[0] for name in own):
        path = prefix + part
        inside = [name for name in own if name.startswith(f"{path}.")]
        if path in own:
            yield path
        if inside and any(name.startswith(f"{path}.") for name in others):
            yield from _globs(inside, every, f"{path}.")
        elif inside:
            yield f"{path}.*"


def _budget(channels: ChannelGraph) -> tuple[str, float]:
    """Half of the MACs, or half of what `uniform` can take of them at most; parameters where it can take no MACs."""
    cutter, keep = Cutter(channels, UniformOptions()), channels.all
    for group in cutter.groups:
        keep = cutter.cut(keep, group, np.zeros(group.units.size), 1.0).keep
    before, after = costs(channels), costs(channels, keep)
    name = "macs" if after.macs < before.macs else "params"
    least = getattr(after, name) / max(1, getattr(before, name))
    share = _HALF if least <= _HALF - _ROOM else (1 + least) / 2
    return name, math.ceil(1000 * share) / 10
