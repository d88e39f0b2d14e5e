"""model.pt2: the network as a torch.export program, for torch.export.load of the torch that wrote it."""

from __future__ import annotations

from pathlib import Path

import torch

from pagcp_ir.emit.base import About, ExportReport, error_of, portable
from pagcp_ir.emit.export import export, quiet, reason_of
from pagcp_ir.emit.foreign import foreign_operators
from pagcp_ir.program import Program
from specs.diagnostics import EmitError

__all__ = ["write"]

FILE = "model.pt2"
TOLERANCE = 1e-4


def write(program: Program, folder: Path, about: About) -> ExportReport:
    """Write model.pt2 and read it back. Raises EmitError E605 or E606; then the file is not left."""
    program = portable(program)
    exported = export(program)
    path = folder / FILE
    try:
        with quiet():
            torch.export.save(exported.program, path, extra_files={"about.txt": about.text()})
            module = torch.export.load(path).module()
        parity = 0.0
        for batch in (1, 3) if exported.dynamic else (2,):
            inputs = program.example_inputs(batch, seed=batch)
            with torch.no_grad():
                parity = max(parity, error_of(program.run(inputs), module(*inputs)))
        if not parity <= TOLERANCE:
            raise EmitError.one("E606", f"{FILE} does not give the outputs of the network: relative error {parity:.2e}")
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, (EmitError, OSError)) or not isinstance(error, Exception):
            raise
        raise EmitError.one("E605", f"{FILE} cannot be written: {reason_of(error)}") from error
    needed = ", ".join(foreign_operators(exported.program))
    notes = [exported.note, f"to load it, first import what registers {needed}" if needed else ""]
    return ExportReport((FILE,), parity, exported.dynamic, "; ".join(filter(None, notes)))
