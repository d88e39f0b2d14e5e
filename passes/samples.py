"""Batches taken apart: into a seeded random order, and losses into those of single samples.

A loss is the mean over its batch; where it is not the mean of its samples' losses (class weights, ignored labels), or
where outputs and targets are not tensors with the batch first, samples cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from pagcp_ir.program import Program
from passes.data import Batch
from passes.seeding import borrowed_rng
from passes.tasks import Task, task_losses
from specs.diagnostics import DataError

__all__ = ["EachSample", "merged", "separable", "shuffled"]

EachSample = Callable[[Sequence[Task], Any, Batch], dict[str, NDArray[np.float64]]]
"""By task: the losses of a batch's samples, float64 [size], from the network's output."""

SEED = 0
CLOSE = 1e-4
"""How far the mean of the samples' losses may be from the batch's, relatively."""


def merged(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """The batches, a last one that is shorter than the first merged into the one before where tensors allow it."""
    found = list(batches)
    if len(found) > 1 and found[-1].size < found[0].size and _alike(found[-2:]):
        found[-2:] = [_joined(found[-2:])]
    return tuple(found)


def shuffled(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """The samples in a seeded random order, in batches of the same sizes; whole batches where tensors forbid it."""
    generator = torch.Generator().manual_seed(SEED)
    if not _alike(batches):
        return tuple(batches[i] for i in torch.randperm(len(batches), generator=generator).tolist())
    whole = _joined(batches)
    order = torch.randperm(whole.size, generator=generator)
    return tuple(_taken(whole, part) for part in torch.split(order, [b.size for b in batches]))


def separable(program: Program, tasks: Sequence[Task], batch: Batch) -> EachSample | None:
    """How to tell samples' losses apart; None where a batch's loss is not their mean, found out on the program."""
    with borrowed_rng(SEED), torch.inference_mode():
        output = program.module(*batch.inputs)
        if not _batched((output, batch.target), batch.size):
            return None
        wholes = task_losses(tasks, output, batch.target)
        try:
            singles = _one_by_one(tasks, output, batch)
        except DataError:  # a loss that does not take a batch of one
            return None
        at_once = _at_once_or_none(tasks, output, batch)
    for name, whole in wholes.items():
        if not abs(float(singles[name].mean()) - float(whole)) <= CLOSE * max(abs(float(whole)), 1e-6):
            return None
    if at_once is None:
        return _one_by_one
    same = [np.allclose(at_once[t], single, CLOSE, CLOSE * np.abs(single).mean()) for t, single in singles.items()]
    return _at_once if all(same) else _one_by_one


def _at_once(tasks: Sequence[Task], output: Any, batch: Batch) -> dict[str, NDArray[np.float64]]:
    """All samples in one call, each as a batch of one."""

    def losses(one: Any, target: Any) -> dict[str, Tensor]:
        return task_losses(tasks, *pytree.tree_map(lambda leaf: leaf.unsqueeze(0), (one, target)))

    return {name: loss.double().cpu().numpy() for name, loss in torch.vmap(losses)(output, batch.target).items()}


def _at_once_or_none(tasks: Sequence[Task], output: Any, batch: Batch) -> dict[str, NDArray[np.float64]] | None:
    try:
        return _at_once(tasks, output, batch)
    except (DataError, RuntimeError, ValueError):  # a loss that looks at its values, or draws random numbers
        return None


def _one_by_one(tasks: Sequence[Task], output: Any, batch: Batch) -> dict[str, NDArray[np.float64]]:
    """Sample by sample."""
    found = {task.name: np.empty(batch.size) for task in tasks}
    leaves, form = pytree.tree_flatten((output, batch.target))
    parts = [leaf.unsqueeze(1).unbind() for leaf in leaves]
    for i in range(batch.size):
        one, target = pytree.tree_unflatten([part[i] for part in parts], form)
        for name, loss in task_losses(tasks, one, target).items():
            found[name][i] = float(loss)
    return found


def _batched(tree: Any, size: int) -> bool:
    """Whether all leaves are tensors with the batch first."""
    return all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size for leaf in pytree.tree_leaves(tree))


def _alike(batches: Sequence[Batch]) -> bool:
    """Whether batches can be joined: trees of one form, of tensors with the batch first and equal shapes after it."""
    if not all(_batched((batch.inputs, batch.target), batch.size) for batch in batches):
        return False
    forms = {str(pytree.tree_structure((batch.inputs, batch.target))) for batch in batches}
    shapes = {tuple(leaf.shape[1:] for leaf in pytree.tree_leaves((b.inputs, b.target))) for b in batches}
    return len(forms) == 1 and len(shapes) == 1


def _joined(batches: Sequence[Batch]) -> Batch:
    trees = [pytree.tree_flatten((batch.inputs, batch.target)) for batch in batches]
    leaves = [torch.cat(parts) for parts in zip(*(leaves for leaves, _ in trees), strict=True)]
    inputs, target = pytree.tree_unflatten(leaves, trees[0][1])
    return Batch(inputs, target, sum(batch.size for batch in batches))


def _taken(whole: Batch, rows: Tensor) -> Batch:
    inputs, target = pytree.tree_map_only(Tensor, lambda t: t[rows.to(t.device)], (whole.inputs, whole.target))
    return Batch(inputs, target, len(rows))
