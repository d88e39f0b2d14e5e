"""model.onnx: one file, weights inside, dynamic batch where the graph allows it, measured against torch.

The measure: max |onnxruntime - torch| over max |torch|, the worst of all outputs at batch 1, 2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from pagcp_ir.emit.base import About, ExportReport, error_of, named_outputs, portable
from pagcp_ir.emit.export import Exported, export, quiet, reason_of
from pagcp_ir.emit.foreign import foreign_calls
from pagcp_ir.program import Program
from specs.diagnostics import EmitError

__all__ = ["write"]

FILE = "model.onnx"
TOLERANCE = 1e-4
EXTERNAL_ABOVE = 2_000_000_000
"""Bytes of tensors that a protobuf file can no longer hold: they go to a file beside it."""


def write(program: Program, folder: Path, about: About) -> ExportReport:
    """Write model.onnx. Raises EmitError E605, E607 (not exportable), E608 (no parity); then no file is left."""
    program = portable(program)
    exported = export(program)
    path, beside = folder / FILE, folder / f"{FILE}.data"
    try:
        with quiet():
            model = _model(program, exported, about)
            external = sum(t.nbytes for t in program.tensors().values()) > EXTERNAL_ABOVE
            ir.save(model, path, external_data=beside.name if external else None)
        parity = _parity(program, path, exported)
        if not parity <= TOLERANCE:
            raise EmitError.one(
                "E608",
                f"{FILE} differs from torch by {parity:.2e} of the output's scale, more than {TOLERANCE:.0e}",
            )
    except BaseException as error:
        path.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)
        if isinstance(error, (EmitError, OSError)) or not isinstance(error, Exception):
            raise
        told = f"the network cannot be exported to ONNX: {reason_of(error)}"
        raise EmitError.one("E607", told, hint=foreign_calls(program)) from error
    files = (FILE, beside.name) if external else (FILE,)
    return ExportReport(files, parity, exported.dynamic, exported.note)


def _model(program: Program, exported: Exported, about: About) -> ir.Model:
    inputs = [str(n.target) for n in program.module.graph.nodes if n.op == "placeholder"]
    outputs = _names(program, taken=set(inputs))
    written = torch.onnx.export(
        exported.program, (), dynamo=True, verbose=False, input_names=inputs, output_names=outputs
    )
    assert written is not None
    model = written.model
    _strip(model)
    _name_batch(model)
    model.producer_name, model.producer_version = "pagcp", None
    model.doc_string = about.text().strip()
    return model


def _names(program: Program, taken: set[str]) -> list[str]:
    """One name per tensor of the output: "digit", "boxes.0"; an input of the same name pushes it aside."""
    output = program.run(program.example_inputs(2))
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


def _name_batch(model: ir.Model) -> None:
    """Call the free size of axis 0 `batch` wherever torch's own symbol (s77) stands."""
    symbols = {str(v.shape[0]) for v in model.graph.inputs if v.shape is not None and not isinstance(v.shape[0], int)}
    if len(symbols) != 1:
        return
    symbol = re.compile(rf"\b{re.escape(symbols.pop())}\b")
    values = [*model.graph.inputs, *(v for node in model.graph.all_nodes() for v in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([d if isinstance(d, int) else symbol.sub("batch", str(d)) for d in value.shape])


def _parity(program: Program, path: Path, exported: Exported) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    given = [str(n.target) for n in program.module.graph.nodes if n.op == "placeholder"]
    worst = 0.0
    for batch in (1, 2, 3) if exported.dynamic else (2, 2, 2):
        inputs = program.example_inputs(batch, seed=batch)
        feed = {name: x.numpy() for name, x in zip(given, inputs, strict=True) if name in names}
        expected = [v for _, v in named_outputs(program.run(inputs)) if v is not None]
        actual = [torch.from_numpy(a) for a in session.run(None, feed)]
        if len(expected) != len(actual):
            raise EmitError.one("E608", f"{FILE} has {len(actual)} outputs, the program {len(expected)}")
        worst = max(worst, error_of(expected, actual))
    return worst
