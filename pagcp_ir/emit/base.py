"""What every exporter takes and returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pagcp_ir.program import Program

__all__ = ["About", "ExportReport", "Exporter", "error_of", "named_outputs", "portable"]


@dataclass(frozen=True)
class About:
    """What the artifact says of itself. `lines`: free text (origin, plan hash), no machine paths, no dates.

    `properties`: the same for programs, as names and values (in the metadata of model.onnx).
    """

    title: str
    lines: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Title and lines as one text."""
        return "\n".join((self.title, *self.lines)) + "\n"


@dataclass(frozen=True)
class ExportReport:
    """What was written. `parity`: largest error over the output's scale; `dynamic`: axes left free.

    `runs`: of ONNX, the shapes of the inputs that it was run on, and the error of each; `opset`: its operators'.
    """

    files: tuple[str, ...]
    parity: float | None = None
    dynamic: tuple[str, ...] = ()
    note: str = ""
    runs: tuple[tuple[str, float], ...] = ()
    opset: int | None = None


class Exporter(Protocol):
    """Writes `program` into `folder`, which exists; on EmitError E6xx nothing of its own is left behind."""

    def __call__(self, program: Program, folder: Path, about: About) -> ExportReport: ...


_PORTABLE: WeakKeyDictionary[Program, Program] = WeakKeyDictionary()


def portable(program: Program) -> Program:
    """A copy on the CPU, in eval mode: what is written does not depend on where the program was trained.

    One copy serves all exporters, which do not change it.
    """
    if program not in _PORTABLE:
        _PORTABLE[program] = replace(program, module=program.copy().cpu().eval())
    return _PORTABLE[program]


def named_outputs(output: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of an output with their names: `{"a": [x, y]}` gives a.0 and a.1, a bare tensor "output"."""
    if isinstance(output, Mapping):
        children: Sequence[tuple[str, Any]] = [(str(k), v) for k, v in output.items()]
    elif isinstance(output, (tuple, list)):
        children = [(str(i), v) for i, v in enumerate(output)]
    else:
        yield prefix or "output", output
        return
    for name, child in children:
        yield from named_outputs(child, f"{prefix}.{name}" if prefix else name)


def error_of(expected: Any, actual: Any) -> float:
    """Largest |expected - actual| over the scale max|expected| of the same output.

    Places where both are not finite count as equal; inf when the structures, or those places, differ.
    """
    left = [(n, v) for n, v in named_outputs(expected) if v is not None]
    right = [(n, v) for n, v in named_outputs(actual) if v is not None]
    if [n for n, _ in left] != [n for n, _ in right]:
        return float("inf")
    return max((_difference(a, b) for (_, a), (_, b) in zip(left, right, strict=True)), default=0.0)


def _difference(a: Any, b: Any) -> float:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return 0.0 if a == b else float("inf")
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    x, y = a.detach().double(), b.detach().double()
    finite = x.isfinite()
    if not torch.equal(finite, y.isfinite()):
        return float("inf")
    x, y = x[finite], y[finite]
    if x.numel() == 0:
        return 0.0
    scale = float(x.abs().max())
    return float((x - y).abs().max()) / max(scale, 1e-6)
