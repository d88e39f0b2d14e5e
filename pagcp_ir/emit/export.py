"""torch.export of a Program for the exporters that need it: dynamic batch where the graph allows it, no paths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from pagcp_ir.emit.foreign import foreign_calls
from pagcp_ir.program import Program
from pagcp_ir.quiet import quiet, reason_of
from specs.diagnostics import EmitError

__all__ = ["Exported", "export", "quiet", "reason_of"]

BATCH = 2
"""The example's batch: 1 would make torch.export specialise on broadcasting."""


@dataclass(frozen=True)
class Exported:
    """The exported program, the axes that it leaves free, and why it is static where it is."""

    program: ExportedProgram
    dynamic: tuple[str, ...]
    note: str = ""


def export(program: Program) -> Exported:
    """Export a program in eval mode on the CPU. Raises EmitError E605 when even a static export fails."""
    module, inputs = program.module, program.example_inputs(BATCH)
    shapes = tuple({0: Dim("batch", min=1)} for _ in inputs)
    with quiet():
        try:
            return Exported(_clean(_export(module, inputs, shapes)), ("batch",))
        except Exception as error:  # noqa: BLE001 (torch.export raises nearly anything)
            note = f"batch size fixed at {BATCH}: {reason_of(error)}"
        try:
            return Exported(_clean(_export(module, inputs, None)), (), note)
        except Exception as error:
            told = f"torch.export cannot export the network: {reason_of(error)}"
            raise EmitError.one("E605", told, hint=foreign_calls(program)) from error


def _export(module: nn.Module, inputs: tuple[torch.Tensor, ...], shapes: object) -> ExportedProgram:
    return torch.export.export(module, inputs, dynamic_shapes=shapes)  # type: ignore[arg-type]


def _clean(exported: ExportedProgram) -> ExportedProgram:
    """Without what torch records of its run: stack traces and module classes on nodes, the example inputs."""
    kept = ("val", "tensor_meta", "torch_fn", "original_aten")
    for graph_module in exported.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in graph_module.graph.nodes:
                node.meta = {k: v for k, v in node.meta.items() if k in kept}
    exported.example_inputs = None
    return exported
