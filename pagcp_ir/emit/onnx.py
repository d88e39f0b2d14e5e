"""model.onnx: one file, weights inside, free in the axes that the graph lets be free, measured against torch.

The measure: max |onnxruntime - torch| over max |torch|, the worst of all outputs of three runs on other values, at
batch 1, 2 and 3 and, where height and width are free, once at another image size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from pagcp_ir.emit.base import About, ExportReport, error_of, named_outputs, portable
from pagcp_ir.emit.export import BATCH, Exported, export, quiet, reason_of, why_fixed
from pagcp_ir.emit.foreign import foreign_calls
from pagcp_ir.emit.onnx_model import onnx_model
from pagcp_ir.program import Program
from specs.diagnostics import EmitError
from specs.exporting import AXES, OnnxOptions

__all__ = ["opened", "write"]

FILE = "model.onnx"
TOLERANCE = 1e-4
EXTERNAL_ABOVE = 2_000_000_000
"""Bytes of tensors that a protobuf file can no longer hold: they go to a file beside it."""
_IMAGE = AXES[1:]
_UNSEEN = "at another image size the network does not run, or is another"


def write(program: Program, folder: Path, about: About, options: OnnxOptions | None = None) -> ExportReport:
    """Write model.onnx, with all axes free that can be, or with those of the options.

    Raises EmitError E605, E607 (not exportable), E608 (no parity), E617 (an axis of the options cannot be free); then
    no file is left.
    """
    program, options = portable(program), options or OnnxOptions()
    if options.dynamic is not None:
        axes = tuple(axis for axis in AXES if axis in options.dynamic)
        return _written(program, _required(program, axes), folder, about, options)
    why = "" if program.another_size() is None else _UNSEEN
    if program.any_size:
        try:
            exported = export(program, AXES)
            found = _written(program, exported, folder, about, options)
            return replace(found, note=_joined(found.note, _fixed(found, "the graph makes numbers of them")))
        except EmitError as error:
            why = error.diagnostics[0].message
    found = _written(program, export(program), folder, about, options)
    return replace(found, note=_joined(found.note, _fixed(found, why)))


def _fixed(found: ExportReport, why: str) -> str:
    axes = " and ".join(axis for axis in _IMAGE if axis not in found.dynamic)
    return f"{axes} fixed: {why}" if axes and why else ""


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _required(program: Program, axes: tuple[str, ...]) -> Exported:
    """The export in which all these axes are free. Raises EmitError E617 with the reason where they cannot be."""
    image = [axis for axis in axes if axis in _IMAGE]
    if image and program.another_size() is None:
        lacks, why = image, "no input is an image [N, C, H, W]"
    elif image and not program.any_size:
        lacks, why = image, _UNSEEN
    else:
        exported = export(program, axes)
        lacks = [axis for axis in axes if axis not in exported.dynamic]
        if not lacks:
            return exported
        why = exported.note or why_fixed(program, axes) or "the graph takes squares alone"
    raise EmitError.one("E617", f"{FILE} cannot have a free {' and '.join(lacks)}: {why}")


def _written(program: Program, exported: Exported, folder: Path, about: About, options: OnnxOptions) -> ExportReport:
    path, beside = folder / FILE, folder / f"{FILE}.data"
    try:
        with quiet():
            model = onnx_model(program, exported, about, options.opset)
            external = sum(t.nbytes for t in program.tensors().values()) > EXTERNAL_ABOVE
            ir.save(model, path, external_data=beside.name if external else None)
        runs = tuple(_runs(program, path, exported))
        parity = max(error for _, error in runs)
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
    return ExportReport(files, parity, exported.dynamic, exported.note, runs, model.opset_imports[""])


def _runs(program: Program, path: Path, exported: Exported) -> Iterator[tuple[str, float]]:
    """The shapes of three inputs, and the error on each."""
    session = opened(path)
    names = [i.name for i in session.get_inputs()]
    given = [str(n.target) for n in program.module.graph.nodes if n.op == "placeholder"]
    for inputs in _examples(program, exported):
        feed = {name: x.numpy() for name, x in zip(given, inputs, strict=True) if name in names}
        expected = [v for _, v in named_outputs(program.run(inputs)) if v is not None]
        actual = [torch.from_numpy(a) for a in session.run(None, feed)]
        if len(expected) != len(actual):
            raise EmitError.one("E608", f"{FILE} has {len(actual)} outputs, the program {len(expected)}")
        yield ", ".join("x".join(map(str, x.shape)) for x in inputs), error_of(expected, actual)


def opened(path: Path) -> Any:
    """An onnxruntime session on the file, which raises what goes wrong and prints nothing."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _examples(program: Program, exported: Exported) -> Iterator[tuple[Tensor, ...]]:
    """Three inputs of the sizes that may be; the values are others each time."""
    fixed = program.inputs[0].shape[0] if not exported.note else BATCH
    size = None
    if other := program.another_size():
        own = next(tuple(spec.shape[2:]) for spec in program.inputs if len(spec.shape) == 4)
        free = [axis in exported.dynamic for axis in _IMAGE]
        size = (other[0] if free[0] else own[0], other[1] if free[1] else own[1]) if any(free) else None
    for number in (1, 2, 3):
        batch = number if "batch" in exported.dynamic else fixed
        yield program.example_inputs(batch, seed=number, size=size if number == 2 else None)
