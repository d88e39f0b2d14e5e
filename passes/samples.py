"""Batches taken apart: into a seeded random order, and losses into those of single samples.

A loss is the mean over its batch; where it is not the mean of its samples' losses (class weights, ignored labels), or
where outputs and targets are not tensors with the batch first, samples cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from pagcp_ir.program import Program
from passes.batches import Batch, mixed
from passes.labels import TargetOf, join, shapes, take
from passes.seeding import borrowed_rng
from passes.tasks import Task, batch_losses, labelled, part_of
from specs.diagnostics import DataError

__all__ = ["EachSample", "merged", "separable", "shuffled"]

Values = NDArray[np.float64]
EachSample = Callable[[Sequence[Task], Any, Batch], dict[str, Values]]
"""By task: the losses of the samples of a batch that have its label, float64, from the network's output."""

SEED = 0
CLOSE = 1e-4
"""How far the mean of the samples' losses may be from the batch's, relatively."""


@dataclass(frozen=True)
class _Group:
    """Tasks that look at the same `size` samples, and what they look at."""

    tasks: Sequence[Task]
    output: Any
    target: Any
    size: int


def merged(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """The batches, a last one that is shorter than the first merged into the one before where tensors allow it."""
    found = list(batches)
    if len(found) > 1 and found[-1].size < found[0].size and _alike(found[-2:]):
        found[-2:] = [_joined(found[-2:])]
    return tuple(found)


def shuffled(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """The samples in a seeded random order, in batches of the same sizes; whole batches where tensors forbid it.

    Batches of different tasks are mixed, each task's as far apart as their number allows.
    """
    generator = torch.Generator().manual_seed(SEED)
    by_tasks: dict[frozenset[str] | None, list[Batch]] = {}
    for batch in batches:
        by_tasks.setdefault(batch.target.tasks if isinstance(batch.target, TargetOf) else None, []).append(batch)
    parts = [_in_random_order(part, generator) for part in by_tasks.values()]
    return tuple(mixed([iter(part) for part in parts], [sum(batch.size for batch in part) for part in parts]))


def separable(program: Program, tasks: Sequence[Task], batches: Sequence[Batch]) -> EachSample | None:
    """How to tell samples' losses apart; None where a batch's loss is not their mean, found out on the program.

    Every task is looked at on the first batch in which a sample has its label.
    """
    at_once, left = True, list(tasks)
    with borrowed_rng(SEED), torch.inference_mode():
        for batch in batches:
            here = [task for task in left if labelled(task, batch.target, batch.size)]
            if not here:
                continue
            left = [task for task in left if task not in here]
            for group in _groups(here, program.module(*batch.inputs), batch):
                found = _told_apart(group)
                if found is None:
                    return None
                at_once &= found
    return _all_at_once if at_once else _all_one_by_one


def _groups(tasks: Sequence[Task], output: Any, batch: Batch) -> list[_Group]:
    """Tasks with a joint callable see all; of the others those together that see all samples."""
    target = batch.target
    joint = [task for task in tasks if task.joint is not None and labelled(task, target, batch.size)]
    found = [_Group(joint, output, target, batch.size)] if joint else []
    whole = dict[str, tuple[Task, Any, Any]]()
    for task in tasks:
        part = None if task.joint is not None else part_of(task, output, target)
        if part is None:
            continue
        alone = replace(task, output=task.name, target=task.name, missing=None)
        if part.samples is None:
            whole[task.name] = alone, part.output, part.target
        else:
            found.append(_Group([alone], {task.name: part.output}, {task.name: part.target}, part.samples))
    if whole:
        alone_tasks, outputs, targets = zip(*whole.values(), strict=True)
        names = list(whole)
        found.append(
            _Group(
                alone_tasks, dict(zip(names, outputs, strict=True)), dict(zip(names, targets, strict=True)), batch.size
            )
        )
    return found


def _told_apart(group: _Group) -> bool | None:
    """Whether the group's losses are had at once; None where they are not those of its samples."""
    if shapes((group.output, group.target), group.size) is None:
        return None
    wholes = batch_losses(group.tasks, group.output, group.target)
    try:
        singles = _one_by_one(group)
    except DataError:  # a loss that does not take a batch of one
        return None
    for name, whole in wholes.items():
        value, size = float(whole.value), group.size if whole.samples is None else whole.samples
        if singles[name].size != size or not abs(float(singles[name].mean()) - value) <= CLOSE * max(abs(value), 1e-6):
            return None
    try:
        at_once = _at_once(group)
    except (DataError, RuntimeError, ValueError, TypeError):  # a loss that looks at its values, or draws random numbers
        return False
    same = [
        at_once[t].shape == single.shape and np.allclose(at_once[t], single, CLOSE, CLOSE * np.abs(single).mean())
        for t, single in singles.items()
    ]
    return all(same)


def _all_at_once(tasks: Sequence[Task], output: Any, batch: Batch) -> dict[str, Values]:
    return {name: values for group in _groups(tasks, output, batch) for name, values in _at_once(group).items()}


def _all_one_by_one(tasks: Sequence[Task], output: Any, batch: Batch) -> dict[str, Values]:
    return {name: values for group in _groups(tasks, output, batch) for name, values in _one_by_one(group).items()}


def _at_once(group: _Group) -> dict[str, Values]:
    """All samples in one call, each as a batch of one."""

    def losses(one: Any, target: Any) -> dict[str, Tensor]:
        found = batch_losses(group.tasks, *pytree.tree_map(lambda leaf: leaf.unsqueeze(0), (one, target)))
        return {name: loss.value for name, loss in found.items()}

    every = torch.vmap(losses)(group.output, group.target)
    return {name: loss.double().cpu().numpy() for name, loss in every.items()}


def _one_by_one(group: _Group) -> dict[str, Values]:
    """Sample by sample; a joint callable may leave out those that do not have the label."""
    found = {task.name: list[float]() for task in group.tasks}
    leaves, form = pytree.tree_flatten((group.output, group.target))
    parts = [leaf.unsqueeze(1).unbind() for leaf in leaves]
    for i in range(group.size):
        one, target = pytree.tree_unflatten([part[i] for part in parts], form)
        for name, loss in batch_losses(group.tasks, one, target).items():
            found[name].append(float(loss.value))
    return {name: np.array(losses) for name, losses in found.items()}


def _in_random_order(batches: Sequence[Batch], generator: torch.Generator) -> tuple[Batch, ...]:
    if not _alike(batches):
        return tuple(batches[i] for i in torch.randperm(len(batches), generator=generator).tolist())
    whole = _joined(batches)
    order = torch.randperm(whole.size, generator=generator)
    return tuple(_taken(whole, part) for part in torch.split(order, [b.size for b in batches]))


def _alike(batches: Sequence[Batch]) -> bool:
    """Whether batches can be joined: trees of one form, of tensors with the batch first and equal shapes after it."""
    found = [shapes((batch.inputs, batch.target), batch.size) for batch in batches]
    known: dict[tuple[Any, ...], tuple[int, ...] | None] = {}
    for batch, here in zip(batches, found, strict=True):
        if here is None or not batch.by_row:
            return False
        known |= {path: shape for path, shape in here.items() if shape is not None}
    return all(here is not None and _fits(here, known) for here in found)


def _fits(here: dict[tuple[Any, ...], tuple[int, ...] | None], known: dict[tuple[Any, ...], Any]) -> bool:
    """Whether a batch has all that others have, in the same shapes, but for what is below what it lacks."""
    lacks = [path for path, shape in here.items() if shape is None]
    for path, shape in known.items():
        if path in here:
            if here[path] is not None and here[path] != shape:
                return False
        elif not any(path[: len(above)] == above for above in lacks):
            return False
    return True


def _joined(batches: Sequence[Batch]) -> Batch:
    sizes = [batch.size for batch in batches]
    inputs, target = join([(batch.inputs, batch.target) for batch in batches], sizes)
    return Batch(inputs, target, sum(sizes))


def _taken(whole: Batch, rows: Tensor) -> Batch:
    inputs, target = take((whole.inputs, whole.target), rows)
    return Batch(inputs, target, len(rows))
