"""What a keep-set takes by its layers: the sum of what each one takes alone at the widths that are kept.

A layer is timed at a width when a search first asks for it, as a network of its own (pagcp_ir/timing/layer.py); widths
above FINE are rounded up to at most FINE steps. Where a table gives times, they are interpolated linearly between its
widths. Layers that are no plain convolution or product count as their MACs at the rate of the others.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagcp_ir.channels import ChannelGraph, Keep, Layer
from pagcp_ir.timing.layer import LayerShape, layer_ms
from pagcp_ir.timing.layers import shapes_of
from pagcp_ir.timing.race import Backend, Given
from specs.diagnostics import PassError

__all__ = ["MeasuredTimes", "TableTimes", "Widths", "widths"]

FINE = 64
COLUMNS = ("layer", "inputs", "outputs", "ms")
Widths = tuple[int, int, int]
"""A layer's number in the channel graph, and how many of its inputs and outputs are kept."""


def widths(channels: ChannelGraph, keep: Keep) -> tuple[Widths, ...]:
    """What has to be known of a keep-set: its layers, at widths that are rounded up where they are large."""
    kept = ((n, int(keep[x.inputs].sum()), int(keep[x.outputs].sum())) for n, x in enumerate(channels.layers))
    return tuple((n, _rounded(inputs), _rounded(outputs)) for n, inputs, outputs in kept)


def _rounded(width: int) -> int:
    step = 1 << max(0, math.ceil(math.log2(max(1, width) / FINE)))
    return -(-width // step) * step


@dataclass
class MeasuredTimes:
    """Times of the layers of the network in the ONNX file `path`, measured here."""

    channels: ChannelGraph
    path: Path
    inputs: Sequence[Given]
    backend: Backend
    batch: int
    threads: int
    _known: dict[LayerShape, float] = field(default_factory=dict)
    _shapes: list[LayerShape | None] | None = None

    def ms(self, asked: Sequence[Widths]) -> list[float]:
        """Milliseconds of each."""
        if self._shapes is None:
            self._shapes = self._matched()
        rate = self._rate(self._shapes)
        return [self._one(self._shapes[n], n, inputs, outputs, rate) for n, inputs, outputs in asked]

    def _one(self, shape: LayerShape | None, number: int, inputs: int, outputs: int, rate: float) -> float:
        if shape is not None:
            return self._timed(shape.resized(inputs, outputs))
        layer = self.channels.layers[number]
        return rate * _macs(layer, inputs, outputs)

    def _timed(self, shape: LayerShape) -> float:
        if shape not in self._known:
            self._known[shape] = layer_ms(shape, self.backend, self.batch, self.threads)
        return self._known[shape]

    def _rate(self, shapes: Sequence[LayerShape | None]) -> float:
        """Milliseconds per MAC of the layers that can be timed."""
        layers = [(x, s) for x, s in zip(self.channels.layers, shapes, strict=True) if s is not None]
        macs = sum(_macs(layer, layer.inputs.size, layer.outputs.size) for layer, _ in layers)
        return sum(self._timed(shape) for _, shape in layers) / macs if macs else 1e-9

    def _matched(self) -> list[LayerShape | None]:
        """The shape of each layer of the graph, of the file's layer of the same name and widths."""
        found: dict[tuple[str, int, int], list[LayerShape]] = defaultdict(list)
        for layer, shape in shapes_of(self.path, self.inputs):
            if shape is not None:
                found[layer.row.name, shape.inputs, shape.outputs].append(shape)
        rows = (found[x.name, x.inputs.size, x.outputs.size] for x in self.channels.layers)
        return [shapes.pop(0) if shapes else None for shapes in rows]


def _macs(layer: Layer, inputs: int, outputs: int) -> float:
    return layer.factor * (outputs if layer.per_channel else inputs * outputs / layer.parts)


@dataclass(frozen=True)
class _Grid:
    """Times at all pairs of widths."""

    inputs: NDArray[np.float64]
    outputs: NDArray[np.float64]
    ms: NDArray[np.float64]

    def at(self, inputs: int, outputs: int) -> float:
        """Linear between the widths, constant below the least."""
        along = [float(np.interp(outputs, self.outputs, row)) for row in self.ms]
        return float(np.interp(inputs, self.inputs, along))


@dataclass(frozen=True)
class TableTimes:
    """Times of layers from a file."""

    channels: ChannelGraph
    grids: Mapping[str, _Grid]

    @staticmethod
    def read(path: Path, channels: ChannelGraph) -> TableTimes:
        """The CSV file. PassError P414 where it lacks a layer, a column, or a point of a layer's grid."""
        points: dict[str, dict[tuple[float, float], float]] = defaultdict(dict)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file, restval="")
                lacking = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
                if lacking:
                    raise ValueError(f"no column {', '.join(lacking)}")
                for row in rows:
                    inputs, outputs, ms = (float(row[name]) for name in COLUMNS[1:])
                    points[row["layer"]][inputs, outputs] = ms
        except (OSError, ValueError, csv.Error) as error:
            told = f"the table cannot be read: {error}"
            raise PassError.one(
                "P414", told, str(path), f"columns {', '.join(COLUMNS)}, and numbers in them"
            ) from error
        return TableTimes(channels, {x.name: _grid(x, points.get(x.name, {}), path) for x in channels.layers})

    def ms(self, asked: Sequence[Widths]) -> list[float]:
        """Milliseconds of each."""
        return [self.grids[self.channels.layers[n].name].at(inputs, outputs) for n, inputs, outputs in asked]


def _grid(layer: Layer, points: Mapping[tuple[float, float], float], path: Path) -> _Grid:
    if layer.per_channel:  # its inputs are its outputs
        points = {(0.0, outputs): ms for (_, outputs), ms in points.items()}
    inputs, outputs = (np.array(sorted({point[side] for point in points})) for side in (0, 1))
    lacking = [(a, b) for a in inputs for b in outputs if (a, b) not in points]
    wide = layer.inputs.size, layer.outputs.size
    short = bool(points) and ((inputs[-1] < wide[0] and not layer.per_channel) or outputs[-1] < wide[1])
    if not points or lacking or short:
        at = f"{lacking[0][0]:g} x {lacking[0][1]:g}" if lacking else f"{wide[0]} x {wide[1]}"
        why = f"layer `{layer.name}` at {at}" if points else f"layer `{layer.name}`"
        hint = f"give it rows for all pairs of some numbers of inputs and outputs, {wide[0]} x {wide[1]} among them"
        raise PassError.one("P414", f"the table has no time of {why}", str(path), hint)
    return _Grid(inputs, outputs, np.array([[points[a, b] for b in outputs] for a in inputs]))
