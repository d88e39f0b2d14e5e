"""One network through trace, analyse, a uniform cut to half, rewrite and verify: times, peak memory, what was cut."""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.zoo.process import Row, Stopwatch, peak_bytes, reset_peak
from bench.zoo.results import RATIO
from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.cost import costs, layer_costs
from pagcp_ir.planning import require_free_units
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify
from passes.criteria import scores
from passes.ratios import Cutter
from specs.options import UniformOptions

__all__ = ["flops", "measure", "warm_up"]


def measure(model: nn.Module, size: int, check: bool, row: Row) -> None:
    """Fill `row` with what became of `model` on images [1, 3, size, size]."""
    before = reset_peak()
    times = row["seconds"] = {}
    watch = Stopwatch()
    program = trace(model, [TensorSpec((1, 3, size, size))])
    times["trace"] = watch.read()
    row |= {"route": program.route, "notes": list(program.notes)}
    channels = analyse(program)
    times["analyse"] = watch.read()
    row["peak_mb"] = round((peak_bytes() - before) / 1e6)
    row |= _described(channels)
    row["protected"] = _output_layers(program, channels)
    row["attention"] = _has_attention(program)
    row["_send"]()
    require_free_units(channels)
    watch.read()
    keep = uniform(program, channels)
    times["select"] = watch.read()
    cut = materialise(program, channels, keep)
    times["rewrite"] = watch.read()
    row["peak_mb"] = round((peak_bytes() - before) / 1e6)
    row |= _kept(channels, keep)
    row["flops_kept"] = round(flops(cut.module, size) / max(1, flops(model, size)), 5)
    row["_send"]()
    if check:
        watch.read()
        result = verify(program, channels, keep, cut, double_limit=sys.maxsize)
        times["verify"] = watch.read()
        double = result.tolerance <= 1e-9
        row |= {"status": result.status, "error_size": float(f"{result.error:.3g}"), "double": double}
        row["how"] = result.reason


def uniform(program: Program, channels: ChannelGraph) -> Keep:
    """The keep-set of the pass `uniform` with criterion l1."""
    cutter = Cutter(channels, UniformOptions(ratio=RATIO))
    by_group = scores("l1", program, channels, cutter.groups, None)  # type: ignore[arg-type]  # l1 needs no data
    keep = channels.all
    for group in cutter.groups:
        keep = cutter.cut(keep, group, by_group[group.name], RATIO).keep
    return keep


def flops(model: nn.Module, size: int) -> int:
    """What torch's counter counts in one forward of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


def warm_up() -> None:
    """Everything once on a small network, so that imports and caches are not measured."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    measure(model.eval(), 8, False, {"_send": lambda: None})


def _described(channels: ChannelGraph) -> Row:
    free = channels.free
    rows = layer_costs(channels, channels.all)
    every = [(layer, cost.before.macs) for layer, cost in zip(channels.layers, rows, strict=True)]
    cuttable = [(layer, macs) for layer, macs in every if free[layer.inputs].any() or free[layer.outputs].any()]
    conv = sum(macs for layer, macs in every if "Conv" in layer.kind)
    total = sum(macs for _, macs in every)
    lost: Counter[str] = Counter()
    for layer, macs in every:
        if not (free[layer.inputs].any() or free[layer.outputs].any()):
            lost[_why(channels, np.concatenate([layer.outputs, layer.inputs]))] += macs
    pins = Counter(_general(pin.reason) for pin in channels.pins)
    return {
        "macs": total,
        "params": costs(channels).params,
        "groups": len(channels.groups),
        "prunable": round(sum(m for _, m in cuttable) / max(1, total), 4),
        "prunable_conv": round(sum(m for x, m in cuttable if "Conv" in x.kind) / conv, 4) if conv else None,
        "pins": dict(pins.most_common(6)),
        "pinned_macs": {reason: round(macs / total, 4) for reason, macs in lost.most_common(4)} if total else {},
        "free": int(free.sum()),
    }


def _why(channels: ChannelGraph, units: Any) -> str:
    for pin in channels.pins:
        if np.isin(pin.units, units).any():
            where = f" ({pin.where})" if pin.where else ""
            return _general(pin.reason) + where
    return "has no channels of its own"


def _general(reason: str) -> str:
    """The reason without the names of one network's modules and values."""
    reason = re.sub(r"`[\w.]+: (\w+)`", r"`\1`", reason)
    return re.sub(r"(whole width of|graph input|constant) `[^`]*`", r"\1", reason)


def _kept(channels: ChannelGraph, keep: Keep) -> Row:
    before, after = costs(channels), costs(channels, keep)
    return {
        "macs_kept": round(after.macs / max(1, before.macs), 5),
        "params_kept": round(after.params / max(1, before.params), 5),
    }


def _output_layers(program: Program, channels: ChannelGraph) -> list[str]:
    """The layers between which and an output there is no other layer: a peer has to be told to leave them whole."""
    layers = {layer.node: layer.name for layer in channels.layers}
    found, seen = set[str](), set[fx.Node]()
    pending = list(program.module.graph.output_node().all_input_nodes)
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name in layers:
            found.add(layers[node.name])
        else:
            pending.extend(node.all_input_nodes)
    return sorted(found)


def _has_attention(program: Program) -> bool:
    text = str(program.module.graph)
    kinds = {type(m).__name__ for m in program.module.modules()}
    return "MultiheadAttention" in kinds or any(op in text for op in ("scaled_dot_product", "matmul", "bmm", "einsum"))
