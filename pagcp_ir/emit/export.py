"""torch.export of a Program for the exporters that need it: dynamic batch where the graph allows it, no paths."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from pagcp_ir.program import Program
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
            raise EmitError.one("E605", f"torch.export cannot export the network: {reason_of(error)}") from error


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


def reason_of(error: Exception) -> str:
    """Type and first line of the exception at the root: the exporters wrap it in pages of advice."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{type(root).__name__}: {lines[0]}" if lines else type(root).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' progress and deprecation notices; errors are exceptions and pass through."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    unread = io.StringIO()  # a failed export prints its whole graph
    with warnings.catch_warnings(), redirect_stdout(unread), redirect_stderr(unread):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
