"""The layers of ONNX files timed one by one: those whose MACs fell and whose time did not, and a width that is better.

Each layer is timed as a network of its own (layer.py), at the widths that it has in each file. Where the time did not
fall, it is timed at its widths rounded up to multiples, too: kernels compute whole blocks of channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pagcp_ir.onnx_summary import OnnxLayer, open_onnx
from pagcp_ir.timing.layer import LayerShape, layer_ms, layer_shape
from pagcp_ir.timing.race import Given

__all__ = ["LayerTime", "layer_times", "shapes_of"]

FELL = 0.95
"""What MACs, or time, have to come to of what they were, to count as fallen."""
SHARE = 0.01
"""Of the time of all layers: layers that take less are not looked into."""
MULTIPLES = (4, 8, 16)
BETTER = 0.9
"""What the time at rounded widths has to come to, to be told."""


@dataclass(frozen=True)
class LayerTime:
    """A layer of the first file, or of both: widths as inputs, outputs; MACs of a sample; milliseconds of a run.

    `stuck`: MACs fell and time did not. `round_to`: the multiple at which `rounded` milliseconds are least.
    """

    name: str
    kind: str
    widths: tuple[tuple[int, int], ...]
    macs: tuple[int | None, ...]
    ms: tuple[float | None, ...]
    stuck: bool = False
    round_to: int | None = None
    rounded: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The data of `--json`."""
        return asdict(self)


def shapes_of(path: Path, inputs: Sequence[Given]) -> list[tuple[OnnxLayer, LayerShape | None]]:
    """The layers of an ONNX file for inputs of these sizes; None for what cannot be timed alone."""
    graph = open_onnx(path, {given.name: (1, *given.shape[1:]) for given in inputs})
    return [(layer, layer_shape(layer.node, layer.weight, layer.given)) for layer in graph.layers()]


def layer_times(files: Sequence[tuple[Path, Sequence[Given]]], batch: int, threads: int) -> tuple[LayerTime, ...]:
    """The layers of one or two files; of two, those that both have under one name."""
    time = cache(lambda shape: layer_ms(shape, "onnxruntime", batch, threads))
    sides = [shapes_of(path, inputs) for path, inputs in files]
    rows = [_row(layers, time) for layers in _matched(sides)]
    total = sum(row.ms[0] or 0.0 for row in rows)
    shapes = [layers[-1][1] for layers in _matched(sides)]
    return tuple(_judged(row, shape, total, time) for row, shape in zip(rows, shapes, strict=True))


_Layer = tuple[OnnxLayer, LayerShape | None]


def _matched(sides: Sequence[Sequence[_Layer]]) -> Iterator[tuple[_Layer, ...]]:
    """Layers of one name, in the order in which they are called."""
    if len(sides) == 1:
        yield from ((layer,) for layer in sides[0])
        return
    others: dict[str, list[_Layer]] = defaultdict(list)
    for layer in sides[1]:
        others[layer[0].row.name].append(layer)
    for layer in sides[0]:
        if others[layer[0].row.name]:
            yield layer, others[layer[0].row.name].pop(0)


def _row(layers: Sequence[_Layer], time: Callable[[LayerShape], float]) -> LayerTime:
    rows = [layer.row for layer, _ in layers]
    return LayerTime(
        name=rows[0].name,
        kind=rows[0].kind,
        widths=tuple((row.inputs, row.outputs) for row in rows),
        macs=tuple(row.macs for row in rows),
        ms=tuple(None if shape is None else time(shape) for _, shape in layers),
    )


def _judged(row: LayerTime, shape: LayerShape | None, total: float, time: Callable[[LayerShape], float]) -> LayerTime:
    if shape is None or len(row.ms) < 2 or None in (*row.ms, *row.macs):
        return row
    (old, new), (macs, fewer) = (tuple(float(n or 0) for n in pair) for pair in (row.ms, row.macs))
    if fewer > FELL * macs or new <= FELL * old or old < SHARE * total:
        return row
    (inputs, outputs), (fewer_inputs, fewer_outputs) = row.widths
    found = []
    for multiple in MULTIPLES:
        up = [-(-width // multiple) * multiple for width in (fewer_inputs, fewer_outputs)]
        # the first layer's inputs and the last one's outputs stay as they are
        wide = (min(up[0], inputs), min(up[1], outputs))
        found.append((time(shape.resized(*wide)), multiple))
    best, multiple = min(found)
    if best > BETTER * new:
        return replace(row, stuck=True)
    return replace(row, stuck=True, round_to=multiple, rounded=best)
