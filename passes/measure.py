"""Measure the tasks' metrics on a split, and hold them against the guarantees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, SupportsFloat

import torch
from torch import Tensor

from pagcp_ir.program import Program
from passes.data import Split
from passes.metrics import Metric
from passes.seeding import borrowed_rng
from passes.tasks import Task, select, task_losses
from specs.diagnostics import DataError
from specs.plan import Verdict

__all__ = ["mean_losses", "measure", "verdicts", "worst_margin"]


def measure(program: Program, tasks: Sequence[Task], split: Split) -> dict[str, float]:
    """The metric of every task that has one, over the whole split. DataError D722 when a metric fails."""
    metered = [task for task in tasks if task.metric is not None]
    metrics = {task.name: task.metric(split.device) for task in metered if task.metric is not None}
    with borrowed_rng(split.seed), torch.inference_mode():
        for batch in split.batches():
            output = program.module(*batch.inputs)
            for task in metered:
                part, target = select(output, task.output), select(batch.target, task.target, "target")
                try:
                    metrics[task.name].update(part, target)
                except Exception as error:
                    raise _refused(task, error) from error
        return {task.name: _value(task, metrics[task.name]) for task in metered}


def mean_losses(program: Program, tasks: Sequence[Task], split: Split) -> dict[str, float]:
    """Each task's mean loss per sample over the split."""
    totals, samples = {task.name: 0.0 for task in tasks}, 0
    with borrowed_rng(split.seed), torch.inference_mode():
        for batch in split.batches():
            for name, loss in task_losses(tasks, program.module(*batch.inputs), batch.target).items():
                totals[name] += float(loss) * batch.size
            samples += batch.size
    return {name: total / samples for name, total in totals.items()}


def verdicts(
    tasks: Sequence[Task],
    dense: Mapping[str, float],
    pruned: Mapping[str, float],
    split: Literal["test", "validation"],
) -> tuple[Verdict, ...]:
    """One verdict per guarantee; both mappings are those of `measure`."""
    found = []
    for task in tasks:
        if task.guarantee is None:
            continue
        before, after, higher = dense[task.name], pruned[task.name], task.higher_is_better
        found.append(
            Verdict(
                task=task.name,
                metric=task.metric_name,
                dense=before,
                pruned=after,
                allowed=task.guarantee.allowed(before, higher),
                met=task.guarantee.met(before, after, higher),
                split=split,
            )
        )
    return tuple(found)


def worst_margin(tasks: Sequence[Task], dense: Mapping[str, float], pruned: Mapping[str, float]) -> float:
    """How far the task that is worst off stays within its guarantee, in units of what it may lose; negative: missed.

    Needs at least one task with a guarantee.
    """
    margins = []
    for task in tasks:
        if task.guarantee is not None:
            before, after = dense[task.name], pruned[task.name]
            allowed = task.guarantee.allowed(before, task.higher_is_better)
            room = after - allowed if task.higher_is_better else allowed - after
            margins.append(room / (abs(before - allowed) or abs(before) or 1.0))
    return min(margins)


def _value(task: Task, metric: Metric) -> float:
    try:
        value = metric.compute()
    except Exception as error:
        raise _refused(task, error) from error
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return float(value)
    elif isinstance(value, SupportsFloat):
        return float(value)
    got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    hint = "give it an `average`, or write module:callable"
    message = f"metric {task.metric_name} of task {task.name!r} must give one number, got {got}"
    raise DataError.one("D722", message, hint=hint)


def _refused(task: Task, error: Exception) -> DataError:
    told = (str(error).strip().splitlines() or [""])[0]
    message = f"metric {task.metric_name} of task {task.name!r} raised {type(error).__name__}: {told}"
    return DataError.one("D722", message)
