"""An exported program as an ONNX model: named inputs, outputs and free axes, and nothing of the run that wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import onnx_ir as ir
import torch

from pagcp_ir.emit.base import About, named_outputs
from pagcp_ir.emit.export import BATCH, Exported
from pagcp_ir.onnx_sizes import PROPERTY, sizes_text
from pagcp_ir.program import Program
from specs.diagnostics import EmitError
from specs.exporting import AXES

__all__ = ["onnx_model"]

_PLACES = dict(zip(AXES, (0, 2, 3), strict=True))


def onnx_model(program: Program, exported: Exported, about: About, opset: int | None) -> ir.Model:
    """The model, with what `about` says. Raises whatever torch.onnx raises, EmitError E607 for another opset."""
    inputs = [str(n.target) for n in program.module.graph.nodes if n.op == "placeholder"]
    outputs = _names(program, exported, taken=set(inputs))
    written = torch.onnx.export(
        exported.program, (), dynamo=True, verbose=False, input_names=inputs, output_names=outputs, opset_version=opset
    )
    assert written is not None
    model = written.model
    if opset is not None and model.opset_imports[""] != opset:
        found = model.opset_imports[""]
        raise EmitError.one("E607", f"torch's exporter wrote opset {found} for {opset}", hint=f"write opset: {found}")
    _strip(model)
    _name_axes(model, exported.dynamic)
    model.producer_name, model.producer_version = "pagcp", None
    model.doc_string = about.text().strip()
    sizes = {name: spec.shape for name, spec in zip(inputs, program.inputs, strict=True)}
    model.metadata_props.update({**about.properties, PROPERTY: sizes_text(sizes)})
    return model


def _names(program: Program, exported: Exported, taken: set[str]) -> list[str]:
    """One name per tensor of the output: "digit", "boxes.0"; an input of the same name pushes it aside."""
    batch = BATCH if "batch" in exported.dynamic or exported.note else program.inputs[0].shape[0]
    output = program.run(program.example_inputs(batch))
    names = [name for name, value in named_outputs(output) if value is not None]
    return [f"{name}_out" if name in taken else name for name in names]


def _strip(model: ir.Model) -> None:
    """Remove what the exporter notes of its own run: stack traces with paths, class names, rewrite rules."""
    graphs: Iterable[Any] = [model.graph, *model.functions.values()]
    model.metadata_props.clear()
    for graph in graphs:
        graph.metadata_props.clear()
        graph.doc_string = None
        values = [*graph.inputs, *graph.outputs, *getattr(graph, "initializers", {}).values()]
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            values += node.outputs
        for value in values:
            value.metadata_props.clear()
            value.doc_string = None


def _name_axes(model: ir.Model, free: Iterable[str]) -> None:
    """Call free sizes batch, height and width, or after the input that has them, where torch's symbols (s77) stand."""
    names: dict[str, str] = {}
    for symbol, name in _symbols(model, free):
        names.setdefault(symbol, name)
    if not names:
        return
    symbols = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in names))

    def named(size: Any) -> Any:
        return size if isinstance(size, int) else symbols.sub(lambda found: names[found[0]], str(size))

    values = [*model.graph.inputs, *(v for node in model.graph.all_nodes() for v in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([named(size) for size in value.shape])


def _symbols(model: ir.Model, free: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Symbols of the inputs' free axes and their names."""
    taken: set[str] = set()
    for name in free:
        for value in model.graph.inputs:
            place, shape = _PLACES[name], value.shape
            if shape is None or (place and len(shape) != 4) or isinstance(shape[place], int):
                continue
            yield str(shape[place]), f"{value.name}_{name}" if name in taken else name
            taken.add(name)
