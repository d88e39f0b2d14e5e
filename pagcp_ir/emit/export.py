"""torch.export of a Program for the exporters that need it: free axes where the graph allows them, no paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from pagcp_ir.emit.foreign import foreign_calls
from pagcp_ir.program import Program
from pagcp_ir.quiet import quiet, reason_of
from specs.diagnostics import EmitError

__all__ = ["Exported", "export", "quiet", "reason_of", "why_fixed"]

BATCH = 2
"""The example's batch: 1 would make torch.export specialise on broadcasting."""
_AXES = ("batch", "height", "width")


@dataclass(frozen=True)
class Exported:
    """The exported program, the axes that it leaves free, and why it is static where it is."""

    program: ExportedProgram
    dynamic: tuple[str, ...]
    note: str = ""


_DONE: WeakKeyDictionary[Program, dict[tuple[str, ...], Exported]] = WeakKeyDictionary()


def export(program: Program, axes: tuple[str, ...] = ("batch",)) -> Exported:
    """Export a program in eval mode on the CPU, of `axes` those free that can be; once for all that ask for the same.

    A fixed batch size is that of the program's inputs where it is not to be free, else 2. Raises EmitError E605 when
    even a static export fails.
    """
    done = _DONE.setdefault(program, {})
    if axes not in done:
        with quiet():
            done[axes] = _exported(program, axes)
    return done[axes]


def _exported(program: Program, axes: tuple[str, ...]) -> Exported:
    batch = BATCH if "batch" in axes else program.inputs[0].shape[0]
    module, inputs = program.module, program.example_inputs(batch)
    note = ""
    if axes:
        try:
            exported = _clean(_export(module, inputs, _shapes(inputs, axes, Dim.AUTO)))
            return Exported(exported, tuple(a for a in _free(exported) if a in axes))
        except Exception as error:  # noqa: BLE001 (torch.export raises nearly anything)
            note = f"batch size fixed at {batch}: {reason_of(error)}"
    try:
        return Exported(_clean(_export(module, inputs, None)), (), note)
    except Exception as error:
        told = f"torch.export cannot export the network: {reason_of(error)}"
        raise EmitError.one("E605", told, hint=foreign_calls(program)) from error


def why_fixed(program: Program, axes: tuple[str, ...]) -> str:
    """What torch.export has against these axes all being free; "" where it has nothing."""
    inputs = program.example_inputs(BATCH)
    with quiet():
        try:
            _export(program.module, inputs, _shapes(inputs, axes, Dim.DYNAMIC))
        except Exception as error:  # noqa: BLE001 (torch.export raises nearly anything)
            return reason_of(error)
    return ""


def _shapes(inputs: tuple[torch.Tensor, ...], axes: tuple[str, ...], image: Any) -> Any:
    """The free axes of each input; `image`: how height and width are asked for."""
    batch = {0: Dim("batch", min=1)} if "batch" in axes else {}
    sizes = {axis: image for axis, name in ((2, "height"), (3, "width")) if name in axes}
    return tuple({**batch, **(sizes if x.ndim == 4 else {})} for x in inputs)


def _free(exported: ExportedProgram) -> tuple[str, ...]:
    """The axes that are free in all inputs that have them, each on its own: a square is not."""
    taken = set(exported.graph_signature.user_inputs)
    inputs = [n.meta["val"].shape for n in exported.graph.nodes if n.op == "placeholder" and n.name in taken]
    found: dict[str, set[str]] = {}
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        sizes = [shape[axis] for shape in inputs if axis == 0 or len(shape) == 4]
        if sizes and not any(isinstance(size, int) for size in sizes):
            found[name] = set(map(str, sizes))
    others = {name: [s for other, s in found.items() if other != name] for name in found}
    return tuple(name for name in _AXES if name in found and found[name].isdisjoint(set().union(*others[name])))


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
