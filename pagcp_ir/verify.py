"""The invariant (DESIGN section 4): the rewritten network equals the masked original.

A reference that is not finite, or that does not
react when one kept index is shifted by one, proves nothing: the result is `unverifiable`, never a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pagcp_ir.channels import Binding, ChannelGraph, Keep
from pagcp_ir.copying import copy_with
from pagcp_ir.literals import Index
from pagcp_ir.program import Program
from pagcp_ir.reference import Reference, masked
from pagcp_ir.rewrite import materialise, require_shapes
from specs.diagnostics import VerifyError

__all__ = ["TOLERANCE", "Verification", "distance", "floats", "masked", "require_exact", "verify"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
DOUBLE_LIMIT = 100_000_000
"""Networks with more parameters than this are compared in their own precision."""
BATCHES = (2, 3)
Size = tuple[int, int]
SHIFTS = 8
"""At most six times this many wrong positions are tried, half of them where kept and removed channels meet."""
_Exchange = dict[tuple[str, int], Index]
"""By tensor and axis: positions to take in place of the kept ones."""


@dataclass(frozen=True)
class Verification:
    """`error`: the largest absolute difference over the standard deviation of that output.

    `reason`: what went wrong; of an exact result, what the reference was besides the masked original.
    """

    status: Literal["exact", "wrong", "unverifiable"]
    error: float
    tolerance: float
    reason: str = ""


def verify(
    program: Program,
    channels: ChannelGraph,
    keep: Keep,
    rewritten: Program,
    batches: Sequence[int] = BATCHES,
    double_limit: int = DOUBLE_LIMIT,
) -> Verification:
    """Compare `rewritten` with the masked `program` (which `channels` describes) on random inputs.

    In double precision where the network runs in it (one that casts to float in its code does not) and has at most
    `double_limit` parameters. Raises GraphError G303 where the rewritten network does not run.
    """
    try:
        return _verify(program, channels, keep, rewritten, batches, _precision(program, double_limit))
    except RuntimeError:
        require_shapes(program, channels, keep, rewritten)  # what does not run at all says where
        return _verify(program, channels, keep, rewritten, batches, torch.float32)


def _verify(
    program: Program,
    channels: ChannelGraph,
    keep: Keep,
    rewritten: Program,
    batches: Sequence[int],
    dtype: torch.dtype,
) -> Verification:
    tolerance = TOLERANCE[dtype]
    reference = _Double(program, channels, keep, dtype)
    worst = 0.0
    for batch in batches:
        expected = reference.outputs(batch)
        if not all(bool(torch.isfinite(e).all()) for e in expected):
            return Verification("unverifiable", float("nan"), tolerance, "the masked original is not finite")
        error = distance(_outputs(rewritten.module, program, dtype, batch), expected)
        worst = max(worst, error)
        if not error <= tolerance:
            return Verification("wrong", error, tolerance, f"outputs differ at batch {batch}")
    error = _at_another_size(reference, rewritten, batches[0])
    worst = max(worst, error)
    if not error <= tolerance:
        return Verification("wrong", error, tolerance, "outputs differ at another image size")
    blind = _blind(reference, batches[0], tolerance)
    if blind:
        return Verification("unverifiable", worst, tolerance, blind)
    kind = "kept channels normalised alone" if reference.statistics else ""
    return Verification("exact", worst, tolerance, kind)


def require_exact(result: Verification) -> None:
    """Raise VerifyError V501 (wrong) or V502 (unverifiable) unless the rewriting was proven exact."""
    if result.status == "wrong":
        raise VerifyError.one(
            "V501",
            f"the rewritten network differs from the masked original by {result.error:.3g} of its output scale "
            f"({result.reason}; allowed {result.tolerance:.0e})",
            hint="nothing was written; please report the network",
        )
    if result.status == "unverifiable":
        raise VerifyError.one(
            "V502",
            f"the cut cannot be proven: {result.reason}",
            hint="nothing was written; check the weights for NaN or dead layers",
        )


def _precision(program: Program, double_limit: int) -> torch.dtype:
    count = sum(t.numel() for t in program.tensors().values())
    return torch.float64 if count <= double_limit else torch.float32


def _outputs(
    module: fx.GraphModule, program: Program, dtype: torch.dtype, batch: int, size: Size | None = None
) -> list[Tensor]:
    """The floating point outputs of a copy in that precision."""
    made = in_precision(module, dtype)
    with torch.no_grad():
        return floats(made(*_inputs(program, dtype, batch, size)))


def _inputs(program: Program, dtype: torch.dtype, batch: int, size: Size | None = None) -> list[Tensor]:
    return [x.to(dtype) if x.is_floating_point() else x for x in program.example_inputs(batch, size=size)]


def floats(outputs: Any) -> list[Tensor]:
    """All tensors of an output, those in dataclasses too: complex ones as pairs, other numbers in double precision."""
    found = (torch.view_as_real(v.resolve_conj()) if v.is_complex() else v for v in _tensors(outputs))
    return [v if v.is_floating_point() else v.double() for v in found]


def _tensors(outputs: Any) -> list[Tensor]:
    """All tensors of an output, those in dataclasses too."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += _tensors([getattr(leaf, field.name) for field in fields(leaf)])
    return found


def in_precision(module: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """A copy whose tensors are of that precision. In double precision what it casts to single is cast to double."""
    made = copy_with(module, _converted(module, dtype))
    if dtype is torch.float64:
        for node in made.graph.nodes:
            if node.op == "call_method" and node.target == "float":
                node.target = "double"
            node.args, node.kwargs = pytree.tree_map(_widened, (node.args, node.kwargs))
        made.recompile()
    return made


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _converted(module: fx.GraphModule, dtype: torch.dtype) -> dict[int, Tensor]:
    def convert(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor

    found: dict[int, Tensor] = {id(p): torch.nn.Parameter(convert(p), False) for p in module.parameters()}
    found.update({id(b): convert(b) for b in module.buffers()})
    return found


def distance(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference over all outputs, each relative to the standard deviation of what is expected."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if b.numel() == 0:
            continue
        size = float(b.abs().max())
        scale = max(float(b.std()), 1e-6 * size) if b.numel() > 1 else size
        difference = float((a - b).abs().max())
        worst = max(worst, difference / max(scale, 1e-30) if difference else 0.0)
        if difference != difference:
            return float("nan")
    return worst


class _Double:
    """The masked original in double precision, with what is needed to make wrong cuts of it."""

    def __init__(self, program: Program, channels: ChannelGraph, keep: Keep, dtype: torch.dtype) -> None:
        self.program, self.channels, self.keep, self.dtype = program, channels, keep, dtype
        module = masked(program, channels, keep)
        self.interpreter = Reference(in_precision(module, dtype), channels, keep)

    @property
    def statistics(self) -> bool:
        return self.interpreter.statistics

    def outputs(self, batch: int, size: Size | None = None) -> list[Tensor]:
        with torch.no_grad():
            return floats(self.interpreter(*_inputs(self.program, self.dtype, batch, size)))


def _at_another_size(reference: _Double, rewritten: Program, batch: int) -> float:
    """The error at a second image size; 0 where the original does not run at another size."""
    program = reference.program
    if not all(len(spec.shape) == 4 for spec in program.inputs):
        return 0.0
    height, width = program.inputs[0].shape[2:]
    size = (height + 32 * max(1, height // 64), width + 32 * max(1, width // 64))
    try:
        expected = reference.outputs(batch, size)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return 0.0
    if not all(bool(torch.isfinite(e).all()) for e in expected):
        return 0.0
    if any(a.shape[:1] != b.shape[:1] for a, b in zip(reference.outputs(batch), expected, strict=True)):
        return 0.0  # a view of fixed size: its rows no longer are samples
    try:
        return distance(_outputs(rewritten.module, program, reference.dtype, batch, size), expected)
    except RuntimeError:
        return float("inf")


def _blind(reference: _Double, batch: int, tolerance: float) -> str:
    """Why the reference proves nothing, "" when it reacts to a reader that takes a wrong channel."""
    program, channels, keep = reference.program, reference.channels, reference.keep
    expected = reference.outputs(batch)
    wrong = _exchanges([b for b in channels.bindings if b.role == "in"], keep)
    if not wrong:
        return ""
    for exchange in wrong:
        other = materialise(program, channels, keep, exchange)
        if not distance(_outputs(other.module, program, reference.dtype, batch), expected) <= tolerance:
            return ""
    return "the output does not react when a reader takes a removed channel for a kept one"


def _exchanges(readers: Sequence[Binding], keep: Keep) -> list[_Exchange]:
    """Wrong positions: where kept and removed channels meet, and then, as both may be dead there, all over the axis."""
    near = [made for at in (2, 4, 1) for b in readers if (made := _shifted(b, keep, at)) is not None]
    far = [made for at in range(SHIFTS) for b in readers if (made := _far(b, keep, at / SHIFTS)) is not None]
    return [made for part in (near, far) for made in part[:: max(1, len(part) // (3 * SHIFTS))]]


def _shifted(binding: Binding, keep: Keep, part: int) -> _Exchange | None:
    """The positions that a reader takes, with one kept index, 1/part down the axis, exchanged for a removed one."""
    alive = keep[binding.units]
    edges = np.flatnonzero(alive[:-1] != alive[1:])
    if not edges.size:
        return None
    at = int(edges[(edges.size - 1) // part])
    kept, gone = (at, at + 1) if alive[at] else (at + 1, at)
    return _exchanged(binding, alive, kept, gone)


def _far(binding: Binding, keep: Keep, share: float) -> _Exchange | None:
    """The same, with the kept one at that share of all kept exchanged for the removed one at that share of theirs."""
    alive = keep[binding.units]
    kept, gone = np.flatnonzero(alive), np.flatnonzero(~alive)
    if not kept.size or not gone.size:
        return None
    return _exchanged(binding, alive, int(kept[int(share * kept.size)]), int(gone[int(share * gone.size)]))


def _exchanged(binding: Binding, alive: Keep, kept: int, gone: int) -> _Exchange:
    index = np.flatnonzero(alive)
    index[index == kept] = gone
    return {(binding.tensor, binding.dim): index}
