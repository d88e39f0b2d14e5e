"""PAGCP's sequential search (arXiv 2303.11923; ALGORITHMS.md 1.2), pure: it asks a Space, and nothing else.

Group by group the ratio climbs until some task's loss exceeds (1 + d) times its base; the last ratio accepted is the
group's. `quirks: true` climbs as the authors' code does (quirks.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from passes.quirks import climb_as_released
from passes.sequential import Finding, Step, Turn, in_turn, judged, rejection, weighed
from passes.space import Outcome, Space
from specs.options import PagcpOptions

__all__ = ["published"]


def published(space: Space, options: PagcpOptions, factor: float) -> Outcome:
    """Search the space, tolerances growing by `factor`. PassError P404: a loss that is not finite before any cut."""
    find = climb_as_released if options.quirks else climb
    return in_turn("published", space, options, factor, lambda turn: find(space, options.grid, turn))


def climb(space: Space, grid: Sequence[float], turn: Turn) -> Finding:
    """Ratios ascending up to the first rejection; the last one accepted is the group's."""
    before, step, needs, margin, note = weighed(space, turn.base.losses), None, 0.0, 0.0, ""
    for ratio in grid:
        trim = space.cut(turn.keep, turn.group, ratio)
        note = trim.note
        if bool((trim.keep == turn.keep).all()):
            continue
        ruling = judged(space, turn, ratio, trim.keep)
        if not ruling.accepted:
            why = rejection(turn, ratio, ruling)
            return Finding(step, why, ruling.task, margin, needs, turn.load(ruling))
        gain = weighed(space, ruling.losses) - before
        step = Step(turn.group, ratio, trim.keep, ruling.losses, ruling.task, ruling.rise, gain)
        needs, margin = max(needs, turn.load(ruling)), turn.margin(ruling)
        if turn.enough(step):
            return Finding(step, f"the budgets were met at ratio {ratio:.2f}", None, margin, needs)
    if step is None:
        return Finding(None, note or "no ratio of the grid removes a channel")
    reason = f"every ratio up to {step.ratio:.2f} was accepted"
    return Finding(step, f"{reason}; {note}" if note else reason, None, margin, needs)
