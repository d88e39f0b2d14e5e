"""How good a network is on validation, while it is trained.

The worst margin to the guarantees counts first, then the lowest weighted loss: a margin saturates, as that of an
accuracy of 1 does, and the loss tells apart what it cannot. Metrics are those of the whole split, never means of
batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from pagcp_ir.program import Program
from passes.base import Context
from passes.measure import mean_losses, measure, worst_margin
from passes.tasks import weighted

__all__ = ["Judge", "Score"]


@dataclass(frozen=True, order=True)
class Score:
    """Higher is better, the first number first. `margins`: of the tasks with a guarantee; they do not compare."""

    key: tuple[float, ...]
    margins: Mapping[str, float] = field(default_factory=dict, compare=False)


class Judge:
    """Scores networks that lie on `device`. DataError D709 without a validation split."""

    def __init__(self, ctx: Context, device: torch.device) -> None:
        self._tasks = ctx.tasks
        self._split = replace(ctx.need_data("finetune")["validation"], device=device)
        self._guaranteed = [task for task in ctx.tasks if task.guarantee is not None]
        self._dense: Mapping[str, float] = {}
        if self._guaranteed and ctx.original is not None:
            original = replace(ctx.original, module=ctx.original.copy().to(device))
            self._dense = measure(original, self._guaranteed, self._split)

    def score(self, program: Program) -> Score:
        """The module is in eval mode afterwards."""
        program.module.eval()
        found = [-float(weighted(self._tasks, mean_losses(program, self._tasks, self._split)))]
        margins: dict[str, float] = {}
        if self._dense:
            now = measure(program, self._guaranteed, self._split)
            margins = {task.name: worst_margin([task], self._dense, now) for task in self._guaranteed}
            # in the order of the numbers themselves: a margin that is no number is the worst
            found = [min(margins.values(), key=lambda m: m if math.isfinite(m) else -math.inf), *found]
        return Score(tuple(number if math.isfinite(number) else -math.inf for number in found), margins)
