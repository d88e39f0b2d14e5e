"""The second step of a compensated cut, checked apart from the first: the exact slice was verified before.

On what a compensated call really reads, with the removed inputs at their means, the call of the uncut network must
give what the emitted one gives: everywhere on average, and that is exactly where no position is special.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from pagcp_ir.channels import Keep
from pagcp_ir.compensate import Call, Fold
from pagcp_ir.program import Program
from pagcp_ir.reads import Means, Read
from pagcp_ir.verify import Verification

__all__ = ["verify_compensated"]

TOLERANCE = 1e-4


def verify_compensated(
    program: Program, found: Sequence[Fold], average: Means, keep: Keep, cut: Program, emitted: Program
) -> Verification:
    """Compare the calls of `emitted`, the compensated `cut`, with those of `program` on removed inputs at their means.

    `error`: the largest difference of a channel's mean, over the standard deviation of the call's result.
    """
    changed = {fold.tensor for fold in found}
    after = emitted.tensors()
    if any(name not in changed and not torch.equal(tensor, after[name]) for name, tensor in cut.tensors().items()):
        return Verification("wrong", float("inf"), TOLERANCE, "compensation changed another tensor")
    recorder, worst = _Recorder(emitted.module), 0.0
    with torch.no_grad():
        recorder.run(*emitted.example_inputs())
        errors = [_error(program, fold, average, keep, recorder.values) for fold in found]
    for fold, error in zip(found, errors, strict=True):
        worst = max(worst, error)
        if not error <= TOLERANCE:
            return Verification("wrong", error, TOLERANCE, f"the compensation of `{fold.name}` is not its mean")
    return Verification("exact", worst, TOLERANCE)


def _error(program: Program, fold: Fold, average: Means, keep: Keep, values: dict[str, Tensor]) -> float:
    kept = torch.from_numpy(np.flatnonzero(keep[fold.outputs]))
    differences, scale = [], 0.0
    for read in fold.reads:
        node = next(n for n in program.module.graph.nodes if n.name == read.node)
        expected, name = Call(program, read)(_at_mean(read, average[read.node], keep, values[read.operand])), node.name
        if fold.place == "running_mean":
            norm = next(iter(node.users))
            expected, name = program.module.get_submodule(str(norm.target))(expected), norm.name
        expected = expected.index_select(read.axis, kept.to(expected.device))
        scale = max(scale, float(expected.std()), 1e-6 * float(expected.abs().max()))
        differences.append((expected - values[name]).movedim(read.axis, -1).flatten(0, -2).double().mean(0))
    return float(torch.stack(differences).mean(0).abs().max()) / max(scale, 1e-30)


def _at_mean(read: Read, average: Tensor, keep: Keep, value: Tensor) -> Tensor:
    """What the uncut call would read: the kept inputs as they are, the removed ones at their means."""
    alive = torch.from_numpy(np.flatnonzero(keep[read.units])).to(value.device)
    shape = list(value.shape)
    shape[read.axis] = len(read.units)
    whole = average.to(value).view(-1, *(1,) * (-1 - read.axis)).expand(shape)
    return whole.index_copy(value.ndim + read.axis, alive, value)


class _Recorder(fx.Interpreter):
    """Keeps a copy of every tensor value by node name."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.clone()
        return value
