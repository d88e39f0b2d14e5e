"""task_taylor: how much each task's loss would move if a unit were replaced by its mean, to first order.

s_t(u) = mean over samples n of (sum over the reads r of u of g_t,n,r * (m_r - a_n,r))^2: a is what a read sees, m its
calibration mean, g the gradient of the sample's loss at that read, positions summed inside the square. It is the
derivative of the loss along "u becomes its mean wherever it is read", so that a unit of a coupled group adds up its
effects before they are squared. Each task is normalised by its mean over the group; then the worst task counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from pagcp_ir.channels import ChannelGraph, Group
from pagcp_ir.copying import copy_with
from pagcp_ir.program import Program
from pagcp_ir.reads import Means, Observer, Read, mean_of, over_positions, reads, sums
from passes.batches import Batch
from passes.processes import gather_in_order
from passes.ratios import Scores
from passes.seeding import borrowed_rng, reseed
from passes.tasks import NOT_FINITE, Task, batch_losses
from specs.diagnostics import PassError
from specs.options import Combine

__all__ = ["Effects", "combined", "effects", "shared_means"]

_WITHOUT = "`criterion: l1` needs none"
Effects = Mapping[str, NDArray[np.float64]]
"""By task: s_t of every unit of the graph; NaN where no call reads the unit."""


def combined(found: Effects, group: Group, combine: Combine) -> Scores | None:
    """The group's scores: over tasks the largest (or the sum) of s_t over its mean in the group.

    None when nothing reads the group. A task that the group does not touch has no say.
    """
    by_task = np.stack([values[group.units] for values in found.values()])
    if bool(np.isnan(by_task).all()):
        return None
    by_task = np.nan_to_num(by_task)
    whole = by_task.mean(axis=1, keepdims=True)
    shares = np.divide(by_task, whole, out=np.zeros_like(by_task), where=whole > 0)
    worst: Scores = shares.max(axis=0) if combine == "max" else shares.sum(axis=0)
    return worst


def effects(program: Program, channels: ChannelGraph, tasks: Sequence[Task], batches: Sequence[Batch]) -> Effects:
    """s_t of every unit: one pass for the means, then one forward pass, and a backward pass a task, for all units.

    PassError P405 where no loss depends on the weights by operations that have a gradient.
    """
    found = reads(program, channels)
    average = shared_means(program, found, batches)
    module = copy_with(program.module, {id(p): nn.Parameter(p.detach(), False) for p in program.module.parameters()})

    def work(number: int) -> dict[str, tuple[Tensor, int]]:
        reseed(number)
        return _effects_of(batches[number], tasks, module, found, average, channels.n_units)

    totals = {task.name: torch.zeros(channels.n_units, dtype=torch.float64) for task in tasks}
    samples = dict.fromkeys(totals, 0)
    with borrowed_rng(0), torch.enable_grad():
        for batch in gather_in_order("the effects of task_taylor", range(len(batches)), work):
            for name, (squares, count) in batch.items():
                totals[name] += squares
                samples[name] += count
    if not any(samples.values()):
        raise PassError.one("P405", "task_taylor needs gradients, and no task's loss has one", hint=_WITHOUT)
    for name in (name for name, total in totals.items() if not total.isfinite().all()):
        raise PassError.one(
            "P405", f"task_taylor needs gradients, and those of {name!r} are not finite", hint=NOT_FINITE
        )
    unread = np.ones(channels.n_units, dtype=np.bool_)
    for read in found:
        unread[read.units] = False
    return {name: np.where(unread, np.nan, (total / max(1, samples[name])).numpy()) for name, total in totals.items()}


def shared_means(program: Program, found: Sequence[Read], batches: Sequence[Batch]) -> Means:
    """What the weighted ones of these reads see on average; processes share the batches."""
    work = range(len(batches))
    return mean_of(gather_in_order("means", work, lambda number: sums(program, found, batches[number].inputs)))


def _effects_of(
    batch: Batch, tasks: Sequence[Task], module: fx.GraphModule, found: Sequence[Read], average: Means, n_units: int
) -> dict[str, tuple[Tensor, int]]:
    """Of one batch, by task: the squared effects, added up over the samples with its label, and how many these are."""
    seen: dict[Read, Tensor] = {}

    def see(read: Read, value: Tensor) -> Tensor:
        # a copy: its gradient is that of this read alone, and no later op writes into it
        seen[read] = value.clone() if value.requires_grad else value.detach().clone().requires_grad_()
        return seen[read]

    losses = batch_losses(tasks, Observer(module, found, see)(*batch.inputs), batch.target)
    nothing = torch.zeros(n_units, dtype=torch.float64)
    made = {}
    for name, loss in losses.items():
        count = loss.of(batch.size)
        moved = loss.value.requires_grad
        squares = _squares(loss.value * count, seen, average, batch.size, n_units) if moved else nothing
        made[name] = squares, count if moved else 0
    return made


def _squares(loss: Tensor, seen: Mapping[Read, Tensor], average: Means, samples: int, n_units: int) -> Tensor:
    """The squared effect of every unit, summed over the samples of a batch: float64 [n_units]."""
    try:
        gradients = torch.autograd.grad(loss, list(seen.values()), retain_graph=True, allow_unused=True)
    except RuntimeError as error:  # an operation without a backward, or one that wrote over what another needs
        raise PassError.one("P405", f"task_taylor needs gradients: {error}", hint=_WITHOUT) from error
    effect = torch.zeros(samples, n_units, dtype=torch.float64)
    for (read, value), gradient in zip(seen.items(), gradients, strict=True):
        if gradient is not None:
            instead = average[read.node] if read.weighted else torch.zeros(len(read.units))
            shape = (-1, *(1,) * (-1 - read.axis))
            moved = gradient * (instead.to(value).view(shape) - value.detach())
            effect.index_add_(1, torch.from_numpy(read.units), _by_sample(over_positions(read, moved).cpu(), samples))
    return effect.square().sum(0)


def _by_sample(rows: Tensor, samples: int) -> Tensor:
    """[samples, width] of [rows, width]: the windows of one image lie next to each other.

    A value that all samples share (made of parameters alone) is shared out evenly.
    """
    if rows.shape[0] % samples:
        return rows.sum(0).expand(samples, -1) / samples
    return rows.reshape(samples, -1, rows.shape[1]).sum(1)
