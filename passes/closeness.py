"""How close a decision was: by what share one loss would have to be another for it to have turned out the other way.

It is what one has to know before losses are computed on another number of threads, or another machine: these differ in
the last bits, some 1e-7, and where every decision was farther than that from its turn, the cuts are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from passes.space import Losses, rise

__all__ = ["of_loads", "of_rises"]


def of_rises(losses: Losses, base: Losses, allowed: Mapping[str, float]) -> float:
    """Of whether every loss is at most 1 + allowed times its base: one that exceeds it turns the answer, or all do."""
    slack = []
    for task, loss in losses.items():
        rose = rise(loss, base[task])
        slack.append(math.inf if not math.isfinite(rose) else (1 + allowed[task] - rose) / max(abs(rose), 1e-30))
    exceeded = [-left for left in slack if left < 0]
    return max(exceeded) if exceeded else min(slack)


def of_loads(load: float, other: float, tolerance: float, rose: float) -> float:
    """Of which load is larger: `load` is that of a loss that rose to `rose` times its base, over `tolerance`."""
    if not (math.isfinite(load) and math.isfinite(other)):
        return math.inf
    return abs(load - other) * tolerance / max(abs(rose), 1e-30)
