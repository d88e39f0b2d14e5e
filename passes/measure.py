"""Measure the tasks' metrics on a split, and hold them against the guarantees."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from pagcp_ir.program import Program
from passes.blame import raised_at, words
from passes.bootstrap import Drawn, drawn_pairs
from passes.data import Split
from passes.feeding import feeding
from passes.metrics import Metric
from passes.resampling import Meter, Resampled
from passes.seeding import borrowed_rng
from passes.tasks import Task, batch_losses, part_of
from specs.diagnostics import DataError
from specs.plan import Verdict

__all__ = ["feed", "mean_losses", "measure", "measured", "meters", "verdict", "verdicts", "worst_margin"]

USUAL = 0.95
"""The confidence of intervals where the guarantee asks for none."""


def measure(program: Program, tasks: Sequence[Task], split: Split) -> dict[str, float]:
    """The metric of every task that has one, over the whole split. DataError D722 when a metric fails."""
    return {name: found.value for name, found in measured(program, tasks, split).items()}


def measured(
    program: Program, tasks: Sequence[Task], split: Split, resample: Collection[str] = ()
) -> dict[str, Resampled]:
    """The same, and for the tasks named in `resample` what their metrics can be drawn anew from.

    A sample without a task's label does not count for it. Where none has it, a task with a guarantee raises DataError
    D715, and another one is left out.
    """
    metered = meters(tasks, split.device, resample)
    with borrowed_rng(split.seed), torch.inference_mode():
        for batch in split.batches():
            with feeding(f"the {split.name} split", batch, program.inputs):
                output = program.module(*batch.inputs)
            feed(metered, output, batch.target)
        for task in (task for task, meter in metered if not meter.fed and task.guarantee is not None):
            raise _unlabelled(task.name, split)
        return {task.name: meter.result() for task, meter in metered if meter.fed}


def meters(
    tasks: Sequence[Task], device: torch.device, resample: Collection[str] = ()
) -> tuple[tuple[Task, Meter], ...]:
    """A meter for every task that has a metric."""
    return tuple((task, _meter(task, device, task.name in resample)) for task in tasks if task.metric is not None)


def feed(metered: Sequence[tuple[Task, Meter]], output: Any, target: Any) -> None:
    """Show a batch's output and target to the meters of the tasks whose label it has. DataError D722."""
    for task, meter in metered:
        if (part := part_of(task, output, target)) is not None:
            try:
                meter.update(part.output, part.target)
            except (Exception, SystemExit) as error:
                raise _refused(task, error) from error


def _meter(task: Task, device: torch.device, resample: bool) -> Meter:
    assert task.metric is not None
    return Meter(partial(task.metric, device), partial(_value, task), resample)


def mean_losses(program: Program, tasks: Sequence[Task], split: Split) -> dict[str, float]:
    """Each task's mean loss over the samples of the split that have its label; DataError D715 where none has."""
    found = _mean_losses(program, tasks, split)
    for task in (task for task in tasks if task.name not in found):
        raise _unlabelled(task.name, split)
    return found


def _mean_losses(program: Program, tasks: Sequence[Task], split: Split) -> dict[str, float]:
    """Those of the tasks that have labels there."""
    totals, samples = dict.fromkeys([task.name for task in tasks], 0.0), dict.fromkeys([task.name for task in tasks], 0)
    with borrowed_rng(split.seed), torch.inference_mode():
        for batch in split.batches():
            with feeding(f"the {split.name} split", batch, program.inputs):
                output = program.module(*batch.inputs)
            for name, loss in batch_losses(tasks, output, batch.target).items():
                totals[name] += float(loss.value) * loss.of(batch.size)
                samples[name] += loss.of(batch.size)
    return {name: total / samples[name] for name, total in totals.items() if samples[name]}


def verdicts(
    tasks: Sequence[Task],
    dense: Program,
    pruned: Program,
    recovered: Program,
    split: Split,
    name: Literal["test", "validation"],
    seed: int = 0,
) -> tuple[Verdict, ...]:
    """One row per task, from one look at the split per network. `pruned`: before recovery.

    A task without a metric is told by its loss; it has no guarantee.
    """
    promised = [task.name for task in tasks if task.guarantee is not None]
    old, new = (_told(program, tasks, split, promised) for program in (dense, recovered))
    between = new if pruned is recovered else _told(pruned, tasks, split)
    return tuple(
        verdict(task, old[task.name], between[task.name].value, new[task.name], name, seed)
        for task in tasks
        if task.name in new
    )


def _told(
    program: Program, tasks: Sequence[Task], split: Split, resample: Collection[str] = ()
) -> dict[str, Resampled]:
    """The metric of every task, or else its loss."""
    unmetered = [task for task in tasks if task.metric is None and (task.loss or task.joint)]
    losses = _mean_losses(program, unmetered, split) if unmetered else {}
    return {**measured(program, tasks, split, resample), **{name: Resampled(loss) for name, loss in losses.items()}}


def verdict(
    task: Task,
    dense: Resampled,
    pruned: float,
    recovered: Resampled,
    split: Literal["test", "validation"],
    seed: int = 0,
) -> Verdict:
    """What was promised for a task, and what became of it; with a confidence the bound has to keep the promise."""
    promise, higher = task.guarantee, task.higher_is_better
    row = Verdict(task.name, task.metric_name or "loss", dense.value, pruned, recovered.value, split=split)
    if promise is None:
        return row
    confidence = promise.confidence
    room = partial(promise.room, higher_is_better=higher)
    margin = room(dense.value, recovered.value)
    met = promise.met(dense.value, recovered.value, higher)
    drawn = drawn_pairs(dense, recovered, seed, patient=confidence is not None)
    interval, note = None, drawn if isinstance(drawn, str) else ""
    if isinstance(drawn, Drawn):
        interval = drawn.interval(confidence or USUAL, higher)
    if confidence is not None:
        margin = drawn.bound(confidence, room) if isinstance(drawn, Drawn) else math.nan
        met = met and margin >= -promise.slack(dense.value, higher)
    return replace(
        row,
        allowed=promise.allowed(dense.value, higher),
        margin=margin,
        met=met,
        interval=interval,
        confidence=confidence,
        note=note,
    )


def worst_margin(tasks: Sequence[Task], dense: Mapping[str, float], pruned: Mapping[str, float]) -> float:
    """How far the task that is worst off stays within its guarantee, in units of what it may lose; negative: missed.

    Needs at least one task with a guarantee.
    """
    margins = []
    for task in tasks:
        if task.guarantee is not None:
            before, after, higher = dense[task.name], pruned[task.name], task.higher_is_better
            loses = abs(before - task.guarantee.allowed(before, higher))
            margins.append(task.guarantee.room(before, after, higher) / (loses or abs(before) or 1.0))
    return min(margins)


def _value(task: Task, metric: Metric) -> float:
    try:
        value = metric.compute()
    except (Exception, SystemExit) as error:
        raise _refused(task, error) from error
    if isinstance(value, (Tensor, np.ndarray)):
        if math.prod(value.shape) == 1 and not np.iscomplexobj(np.asarray(value.tolist())):
            return float(value.reshape(()))
    elif isinstance(value, SupportsFloat):
        return float(value)
    got = f"shape {list(value.shape)}" if isinstance(value, (Tensor, np.ndarray)) else f"a {type(value).__name__}"
    hint = "give it an `average`, or write module:callable"
    message = f"metric {task.metric_name} of task {task.name!r} must give one number, got {got}"
    raise DataError.one("D722", message, hint=hint)


def _unlabelled(name: str, split: Split) -> DataError:
    return DataError.one("D715", f"no sample of the {split.name} split has a label for the task {name!r}")


def _refused(task: Task, error: BaseException) -> DataError:
    message = f"metric {task.metric_name} of task {task.name!r} raised {words(error)}"
    return DataError.one("D722", message, raised_at(error))
