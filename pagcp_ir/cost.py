"""Analytic costs of a channel graph under a keep-set: MACs of one sample, parameters, bytes.

MACs are multiply-accumulates of convolutions and linear layers (half of what torch's flop counter counts for them):
positions * kernel * inputs * outputs / parts; a depthwise layer counts its outputs once.
"""

from __future__ import annotations

import math

from pagcp_ir.channels import ChannelGraph, Keep, Layer
from specs.plan import Costs, LayerCost, LayerSize

__all__ = ["costs", "layer_costs", "prunable_macs"]


def costs(channels: ChannelGraph, keep: Keep | None = None) -> Costs:
    """Costs when only the units of `keep` (bool [n_units]; None: all) stay."""
    keep = channels.all if keep is None else keep
    shapes = _shapes(channels, keep)
    params = sum(math.prod(shapes[n]) for n, info in channels.tensors.items() if info.is_parameter)
    size = sum(math.prod(shapes[n]) * info.itemsize for n, info in channels.tensors.items())
    macs = sum(_size(layer, keep, shapes).macs for layer in channels.layers)
    return Costs(macs=macs, params=params, bytes=size)


def layer_costs(channels: ChannelGraph, keep: Keep) -> tuple[LayerCost, ...]:
    """One row per weighted call site, in the order of the graph; a shared layer has one per call."""
    before, after = _shapes(channels, channels.all), _shapes(channels, keep)
    return tuple(
        LayerCost(
            layer.name,
            layer.kind,
            _size(layer, channels.all, before),
            _size(layer, keep, after),
        )
        for layer in channels.layers
    )


def prunable_macs(channels: ChannelGraph) -> int:
    """MACs of layers on which at least one unit that may be cut occurs, on either side."""
    free = channels.free
    sizes = _shapes(channels, channels.all)
    return sum(
        _size(layer, channels.all, sizes).macs
        for layer in channels.layers
        if free[layer.inputs].any() or free[layer.outputs].any()
    )


def _shapes(channels: ChannelGraph, keep: Keep) -> dict[str, tuple[int, ...]]:
    sizes = {(b.tensor, b.dim): int(keep[b.units].sum()) for b in channels.bindings}
    return {
        name: tuple(sizes.get((name, dim), size) for dim, size in enumerate(info.shape))
        for name, info in channels.tensors.items()
    }


def _size(layer: Layer, keep: Keep, shapes: dict[str, tuple[int, ...]]) -> LayerSize:
    inputs, outputs = int(keep[layer.inputs].sum()), int(keep[layer.outputs].sum())
    pairs = outputs if layer.per_channel else inputs * outputs // layer.parts
    params = sum(math.prod(shapes[name]) for name in layer.tensors)
    return LayerSize(inputs, outputs, layer.factor * pairs, params)
