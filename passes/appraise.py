"""Prices from a part of the calibration set, for the marginal search: see racing.py for what a race is.

A race for a price ends when it is settled, or likely after ENOUGH samples, that the step is, or is not, the cheapest,
when the price is known to half of itself, or after ENOUGH samples: between prices that close it matters little which
step goes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pagcp_ir.channels import Keep
from passes.oracle import Samples
from passes.racing import Interval, Sampled, average, interval, race
from passes.space import Losses
from passes.walk import Appraisal, Yardstick

__all__ = ["RacingAppraiser"]

ENOUGH = 1024
"""Samples after which a price is believed as it is."""
HALF = 0.5
SURE = 3.0
"""Standard deviations by which ENOUGH samples will not move a price."""


@dataclass(frozen=True)
class RacingAppraiser:
    """An Appraiser that races; `alpha`: what one interval of one task may err."""

    space: Sampled
    alpha: float

    def appraise(
        self, before: Keep, after: Keep, origin: Losses, yardstick: Yardstick, saved: float, bar: float
    ) -> Appraisal:
        """See Appraiser. The losses are `origin` and the mean of the paired differences."""

        def settle(seen: Mapping[str, Samples], batches: int) -> Appraisal | None:
            if batches == self.space.batches or saved <= 0:  # what saves nothing has no price to race for
                was, now = self.space.losses(before), self.space.losses(after)
                return Appraisal({task: origin[task] + now[task] - was[task] for task in origin})
            added = self._added(seen, yardstick)
            n = seen["new"].looked
            low, high = (max(getattr(a, end) for a in added.values()) / saved for end in ("low", "high"))
            dearest = max(added.values(), key=lambda a: a.mean)
            middle, drift = dearest.mean / saved, dearest.drift / saved
            known = math.isfinite(bar) and (high <= bar or low > bar or abs(middle - bar) > SURE * drift)
            ends = (high - bar, low - bar, high - (1 + HALF) * middle)
            self.space.close(_least(end * saved for end in ends) * min(yardstick.tolerance.values()))
            if known or n >= ENOUGH or high - middle <= HALF * middle or math.isnan(middle):
                return Appraisal(_moved(origin, seen), n)
            return None

        return race(self.space, {"new": after, "old": before}, settle)

    def better(self, keep: Keep, than: Keep, yardstick: Yardstick) -> Appraisal:
        """See Appraiser. Only what is not clearly worse is measured on all samples."""
        old = self.space.losses(than)
        bar = yardstick.worst(old)[1]

        def settle(seen: Mapping[str, Samples], batches: int) -> Appraisal | None:
            if batches == self.space.batches:
                losses = self.space.losses(keep)
                return Appraisal(losses, better=yardstick.worst(losses)[1] < bar)
            added = self._added(seen, yardstick)
            over = (yardstick.load(task, old[task]) + a.low - bar for task, a in added.items())
            self.space.close(_least(over) * min(yardstick.tolerance.values()))
            if any(not yardstick.load(task, old[task]) + a.low <= bar for task, a in added.items()):
                return Appraisal(_moved(old, seen), seen["new"].looked)
            return None

        return race(self.space, {"new": keep, "old": than}, settle)

    def _added(self, seen: Mapping[str, Samples], yardstick: Yardstick) -> dict[str, Interval]:
        """The load that each task gains from the old keep-set to the new one."""
        found = {}
        for task, base in yardstick.base.items():
            unit = (abs(base) or 1.0) * yardstick.tolerance[task]
            difference = seen["new"].values[task] - seen["old"].values[task]
            found[task] = interval(difference / unit, seen["new"].of(task), self.alpha, ENOUGH)
        return found


def _least(distances: Iterable[float]) -> float:
    """The least distance of those that are one; where a cut changes nothing at all there is none to be crossed."""
    return min((abs(each) for each in distances if each and math.isfinite(each)), default=math.inf)


def _moved(losses: Losses, seen: Mapping[str, Samples]) -> dict[str, float]:
    return {task: loss + average(seen["new"].values[task] - seen["old"].values[task]) for task, loss in losses.items()}
