"""The climb through a group's ratios as the authors' code does it (ALGORITHMS.md 1.4), for `quirks: true`.

Of its quirks these decide what is cut: a group that is never rejected is cut by the last ratio but one, and the search
goes on as if it were whole (2); a group whose first ratios remove nothing takes part in the ranking (5); a loss that is
NaN is not greater than anything, so that it never rejects (12). A share of groups below one keeps none (sequential.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from passes.closeness import of_rises
from passes.sequential import Finding, Ruling, Step, Turn, rejection, told
from passes.space import Losses, Space

__all__ = ["climb_as_released"]


def climb_as_released(space: Space, grid: Sequence[float], turn: Turn) -> Finding:
    """Ratios ascending up to the first rejection. Totals of losses are neither weighed nor those of the bases."""
    carried = [sum(step.losses.values()) for step in turn.taken if step.carried]
    before = max([sum(turn.first.values()), *carried])
    empty = sum(turn.base.losses.values()) - before
    steps, needs = list[Step](), 0.0
    for ratio in grid:
        keep = space.cut(turn.keep, turn.group, ratio).keep
        if bool((keep == turn.keep).all()):
            steps.append(Step(turn.group, ratio, keep, turn.base.losses, next(iter(turn.scale)), 1.0, empty, False))
            continue
        began = time.perf_counter()
        ruling = _rule(space.losses(keep), turn)
        space.close(of_rises(ruling.losses, turn.base.losses, dict.fromkeys(ruling.losses, turn.tolerance)))
        told(space, turn, ratio, ruling, time.perf_counter() - began)
        if not ruling.accepted:
            reason, step = rejection(turn, ratio, ruling), steps[-1] if steps else None
            return Finding(step, reason, ruling.task, _margin(turn, step), needs, turn.load(ruling))
        gain = sum(ruling.losses.values()) - before
        steps.append(Step(turn.group, ratio, keep, ruling.losses, ruling.task, ruling.rise, gain))
        needs = max(needs, turn.load(ruling))
        if turn.enough(steps[-1]):
            reason = f"the budgets were met at ratio {ratio:.2f}"
            return Finding(steps[-1], reason, None, _margin(turn, steps[-1]), needs)
    last = replace(steps[-2] if len(steps) > 1 else steps[-1], carried=False)
    reason = f"every ratio up to {grid[-1]:.2f} was accepted; the ratio before it is used, later groups saw none of it"
    return Finding(last, reason, None, _margin(turn, last), needs)


def _margin(turn: Turn, step: Step | None) -> float:
    return 0.0 if step is None else 1 + turn.tolerance - step.rise


def _rule(losses: Losses, turn: Turn) -> Ruling:
    """Python's max over tasks, for which NaN is greater than nothing and nothing is greater than NaN."""
    rises = {task: _over(losses[task], base) for task, base in turn.base.losses.items()}
    worst = max(rises, key=lambda task: rises[task])
    return Ruling(losses, worst, rises[worst], not rises[worst] > 1 + turn.tolerance)


def _over(loss: float, base: float) -> float:
    if base:
        return loss / base
    return math.nan if loss == 0 else math.copysign(math.inf, loss)
