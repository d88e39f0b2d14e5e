"""Criteria: which units of a group matter least. `scores` is the door; CRITERIA the table.

l1, l2: ALGORITHMS.md 1.1 (PAGCP): the filter norm for a single layer, the sum over layers of the mean |W_j| for a
coupled group. Where its layers make different units, each layer's means are taken over their own mean.
task_taylor asks every task (task_taylor.py).
Names with tp_ are torch-pruning's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pagcp_ir.channels import ChannelGraph, Group, Units
from pagcp_ir.program import Program
from passes.ratios import Scores
from passes.task_taylor import combined, effects
from passes.torch_pruning import torch_pruning_scores
from specs.diagnostics import PassError, nearest
from specs.options import Combine

if TYPE_CHECKING:
    from passes.base import Context

__all__ = ["CRITERIA", "scores"]

Criterion = Callable[[Program, ChannelGraph, Group, "Context"], "Scores | None"]


def scores(
    name: str,
    program: Program,
    channels: ChannelGraph,
    groups: Iterable[Group],
    ctx: Context,
    combine: Combine = "max",
) -> Mapping[str, Scores | None]:
    """By group name: float64 [width] over group.units, 0 where a unit is already cut; None: no scores.

    `channels` describe `program` as it is now; `combine`: how task_taylor puts the tasks together.
    PassError P405 for an unknown criterion or scores that are not finite.
    """
    if name not in CRITERIA:
        raise PassError.one("P405", f"there is no criterion {name!r}", hint=nearest(name, list(CRITERIA)))
    criterion = _task_taylor(combine) if name == "task_taylor" else CRITERIA[name]
    found = {}
    for group in groups:
        value = criterion(program, channels, group, ctx)
        if value is not None and not np.isfinite(value).all():
            raise PassError.one("P405", f"{name} gives group {group.name!r} a score that is not finite")
        found[group.name] = value
    return found


def _norm(power: int) -> Criterion:
    def criterion(program: Program, channels: ChannelGraph, group: Group, ctx: Context) -> Scores | None:
        tensors = program.tensors()
        made = [b for b in channels.of(group, "out") if len(b.units)]
        if len(made) == 1:
            (only,) = made
            norms = _filters(tensors[only.tensor], only.dim).norm(power, dim=1)
            return _per_unit(group.units, only.units, norms)
        total, count = np.zeros(len(group.units)), np.zeros(len(group.units))
        alike = len({np.unique(binding.units).tobytes() for binding in made}) == 1
        for binding in made:
            means = _filters(tensors[binding.tensor], binding.dim).abs().mean(dim=1)
            if not alike:  # joined by a concatenation: layers are not worth more for their scale or for their number
                means = means / means.mean().clamp_min(1e-30)
            total += _per_unit(group.units, binding.units, means)
            count += _per_unit(group.units, binding.units, torch.ones_like(means))
        return total if alike else total / np.maximum(count, 1)

    return criterion


def _task_taylor(combine: Combine) -> Criterion:
    def criterion(program: Program, channels: ChannelGraph, group: Group, ctx: Context) -> Scores | None:
        oracle = ctx.need_oracle("task_taylor")
        found = oracle.once("effects", program, lambda tasks, batches: effects(program, channels, tasks, batches))
        return combined(found, group, combine)

    return criterion


def _filters(weight: Tensor, dim: int) -> Tensor:
    """float64 [positions, rest]: the slice of each output channel."""
    return weight.detach().double().movedim(dim, 0).flatten(1)


def _per_unit(group: Units, units: Units, values: Tensor) -> Scores:
    """Add up the values of each unit's positions; [width] over the group's units."""
    order = np.argsort(group)
    inside = np.isin(units, group)
    places = order[np.searchsorted(group[order], units[inside])]
    total = np.zeros(len(group))
    np.add.at(total, places, values.cpu().numpy()[inside])
    return total


CRITERIA: Mapping[str, Criterion] = {
    "l1": _norm(1),
    "l2": _norm(2),
    "task_taylor": _task_taylor("max"),
    "tp_l1": torch_pruning_scores("tp_l1"),
    "tp_l2": torch_pruning_scores("tp_l2"),
    "tp_bn_scale": torch_pruning_scores("tp_bn_scale"),
    "tp_lamp": torch_pruning_scores("tp_lamp"),
    "tp_fpgm": torch_pruning_scores("tp_fpgm"),
    "tp_taylor": torch_pruning_scores("tp_taylor"),
    "tp_hessian": torch_pruning_scores("tp_hessian"),
    "tp_random": torch_pruning_scores("tp_random"),
}
