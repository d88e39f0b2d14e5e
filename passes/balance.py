"""balance: margin. A task's weight in training grows as its margin to its guarantee shrinks on validation.

weight_t * 2^-m_t with the margin m_t of `worst_margin` (1: nothing lost, 0: all lost that may be) held in -3..1, so
that no task gains more than a factor of 16 on another; a task without a guarantee has m = 0. All are scaled so that the
sum of the weights stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from passes.tasks import Task

__all__ = ["balanced"]

LOWEST, HIGHEST = -3.0, 1.0


def balanced(tasks: Sequence[Task], margins: Mapping[str, float]) -> tuple[Task, ...]:
    """The tasks with the weights that these margins give; a margin that is no number is the lowest."""
    raw = {task.name: task.weight * 2.0 ** -_held(margins.get(task.name, 0.0)) for task in tasks}
    total = sum(raw.values())
    scale = sum(task.weight for task in tasks) / total if total else 1.0
    return tuple(replace(task, weight=raw[task.name] * scale) for task in tasks)


def _held(margin: float) -> float:
    return LOWEST if math.isnan(margin) else min(max(margin, LOWEST), HIGHEST)
