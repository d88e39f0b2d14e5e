"""How sure is a drop? A paired bootstrap: dense and pruned network are measured on the same resamples of the split.

Each end of an interval at confidence c is exceeded by a share 1 - c of the resamples (percentiles, rounded outwards),
so that either is a one-sided bound. It says what chance in the choice of the split's samples may do, and nothing of a
split that was chosen on, or that is unlike what the network will see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from passes.resampling import Draws, Resampled, Units, timed
from specs.plan import Interval

__all__ = ["Drawn", "drawn_pairs"]

SUMS, AGAIN = 1000, 200
"""Resamples where each is a sum, and where each runs the metric again."""
LEAST = 20
"""Units that are worth drawing from."""
PATIENCE = 60.0
"""Seconds that an interval may take that no verdict asks for."""


@dataclass(frozen=True)
class Drawn:
    """The metric of both networks on the same resamples, float64 [resamples]; `of`: what was drawn."""

    dense: NDArray[np.float64]
    pruned: NDArray[np.float64]
    of: str

    def interval(self, confidence: float, higher_is_better: bool) -> Interval:
        """Of the drop: how much worse the pruned network is, in the metric's unit. What has no value is the worst."""
        drop = self.dense - self.pruned if higher_is_better else self.pruned - self.dense
        drop = np.where(np.isfinite(drop), drop, math.inf)
        low, high = least(drop, 1 - confidence), -least(-drop, 1 - confidence)
        return Interval(low, high, confidence, len(drop), self.of)

    def bound(self, confidence: float, room: Callable[[float, float], float]) -> float:
        """What `room` (dense, pruned) exceeds in all but a share 1 - confidence of the resamples."""
        found = np.array([room(float(d), float(p)) for d, p in zip(self.dense, self.pruned, strict=True)])
        return least(np.where(np.isnan(found), -math.inf, found), 1 - confidence)


def least(values: NDArray[np.float64], share: float) -> float:
    """The largest of the values that at most that share of them lie below."""
    return float(np.sort(values)[math.floor(share * len(values) + 1e-9)])


def drawn_pairs(dense: Resampled, pruned: Resampled, seed: int, *, patient: bool) -> Drawn | str:
    """Both on the same resamples, or why not. `patient`: however long it takes."""
    units = _common(dense, pruned)
    if units is None:
        return dense.note or pruned.note or "its metric cannot be put together from parts of the split"
    old, new, of = units
    if len(old) < LEAST:
        return f"there are only {len(old)} {of} to draw from"
    count = AGAIN if old.again else SUMS
    if not patient and old.again and (seconds := count * (timed(old) + timed(new))) > PATIENCE:
        return f"{count} resamples would take {seconds:.0f} s"
    found = np.empty((2, count))
    generator = np.random.default_rng(seed)
    for number in range(count):
        drawn: Draws = generator.integers(0, len(old), len(old))
        found[:, number] = old.value(drawn), new.value(drawn)
    return Drawn(found[0], found[1], of)


def _common(dense: Resampled, pruned: Resampled) -> tuple[Units, Units, str] | None:
    """What both can be drawn from: samples, or else batches."""
    for of in ("samples", "batches"):
        old, new = getattr(dense, of), getattr(pruned, of)
        if old is not None and new is not None and len(old) == len(new):
            return old, new, of
    return None
