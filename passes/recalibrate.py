"""BatchNorm recalibration: running statistics become those of what the normalisation now takes, over all samples.

Sums are taken in float64; the variance is the unbiased one, as that which training leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm

from pagcp_ir.program import Program
from pagcp_ir.watching import Watch
from passes.data import Batch
from passes.gate import Changes
from passes.seeding import borrowed_rng

__all__ = ["normalisations", "recalibrated"]


def normalisations(program: Program) -> dict[str, tuple[str, ...]]:
    """By name of a BatchNorm with statistics of its own, in the order of the graph: the nodes that call it."""
    modules = dict(program.module.named_modules(remove_duplicate=False))
    calls: dict[int, tuple[str, list[fx.Node]]] = {}
    for node in program.module.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            calls.setdefault(id(module), (str(node.target), []))[1].append(node)
    return {name: tuple(node.name for node in nodes) for name, nodes in calls.values()}


def recalibrated(program: Program, name: str, calls: Sequence[str], batches: Sequence[Batch]) -> Changes:
    """The new statistics of that BatchNorm, by name of the tensor."""
    module = program.module.get_submodule(name)
    assert isinstance(module, _BatchNorm)
    total = torch.zeros(2, module.num_features, dtype=torch.float64)
    count = 0

    def see(number: int, node: str, taken: Tensor, given: Tensor) -> None:
        nonlocal count
        values = taken.detach().to("cpu", torch.float64).movedim(1, -1).flatten(0, -2)
        count += len(values)
        total[0] += values.sum(0)
        total[1] += values.square().sum(0)

    watch = Watch(program, calls, see)
    with borrowed_rng(0), torch.inference_mode():
        for number, batch in enumerate(batches):
            watch(number, *batch.inputs)
    mean = total[0] / count
    variance = (total[1] / count - mean.square()).clamp(min=0) * (count / max(1, count - 1))
    names = {id(tensor): key for key, tensor in program.tensors().items()}
    return {names[id(module.running_mean)]: mean, names[id(module.running_var)]: variance}
