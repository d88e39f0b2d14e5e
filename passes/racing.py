"""Deciding on a part of the calibration set: a race stops as soon as what it asks is settled.

Samples come in a random order without replacement. Of n out of N samples X, with standard deviation s, the mean is
within r of the mean of all N, at every n at once, with probability 1 - alpha, asymptotically: Robbins' normal mixture
in the time t = 1 / (1/n - 1/N) at which a mean drawn without replacement moves like Brownian motion over time,
    r = s sqrt(2 (t q + 1) / (t^2 q) log(sqrt(t q + 1) / alpha)) + m log(1 / alpha) / t
(Waudby-Smith et al., Time-uniform central limit theory, 2021). Losses have no known range, so no finite-sample bound
holds for them; the second term, as in empirical Bernstein bounds but with the largest deviation m seen so far, stands
in for one, and heavy tails may still hide.

What is too close to call goes by the mean of ENOUGH samples, or earlier where it is likely how that will come
out. A search measures what it accepts in the end on all samples (certified.py), so that this costs time at worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pagcp_ir.channels import Keep
from passes.oracle import Samples
from passes.sequential import Ruling, Turn, rule
from passes.space import Space, worst_rise

__all__ = ["Interval", "RacingRule", "Sampled", "average", "interval", "race"]

LEAST = 64
"""Losses that a race looks at before it decides anything."""
TUNED = 512
"""The number of samples at which the interval is tightest."""
ENOUGH = 1024
"""Samples after which a rise is judged by its mean."""
LONGER = 2048
"""The same, for the rejection that ends a group."""
LIKELY = 2.0
"""Standard deviations by which the mean is not likely to move until ENOUGH samples are seen."""
_T = TypeVar("_T")
Values = NDArray[np.float64]


class Sampled(Space, Protocol):
    """A space whose losses can be had in part."""

    @property
    def batches(self) -> int:
        """How many batches the calibration set has."""

    def samples(self, keep: Keep, batches: int) -> Samples:
        """The losses under `keep` of the first `batches` batches of an order that is the same for every keep-set."""


@dataclass(frozen=True)
class Interval:
    """What is known of a mean over all samples. `drift`: the standard deviation of what enough will add."""

    mean: float
    radius: float
    drift: float = 0.0

    @property
    def allowed(self) -> bool:
        """Whether it is settled, or likely after ENOUGH samples, that it is at most 0."""
        return self.high <= 0 or self.mean + LIKELY * self.drift <= 0

    @property
    def refused(self) -> bool:
        """Whether it is settled, or likely after ENOUGH samples, that it is not at most 0."""
        return not self.allowed and self.mean - LIKELY * self.drift > 0

    @property
    def close(self) -> float:
        """How far the mean is from where it would be settled, or not be settled."""
        ends = min(self.high, self.mean + LIKELY * self.drift), self.mean - LIKELY * self.drift
        return min(abs(end) for end in ends) if all(map(math.isfinite, ends)) else math.inf

    @property
    def low(self) -> float:
        """The least that it can be."""
        return self.mean - self.radius

    @property
    def high(self) -> float:
        """The most that it can be."""
        return self.mean + self.radius


def interval(values: Values, total: int, alpha: float, enough: int = ENOUGH) -> Interval:
    """The mean of all `total` values, of which these were drawn at random; wrong with probability alpha, ever."""
    n = len(values)
    if not n:  # no sample so far has the task's label
        return Interval(0.0, math.inf)
    mean = float(values.mean())
    if n >= total:
        return Interval(mean, 0.0)
    if n < LEAST or not math.isfinite(mean):
        return Interval(mean, math.inf, math.inf)
    away = np.abs(values - mean)
    spread, farthest = math.sqrt(float((away**2).sum()) / (n - 1)), float(away.max())
    time = n * total / (total - n)
    tuned = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / TUNED
    mixture = 2 * (time * tuned + 1) / (time**2 * tuned) * math.log(math.sqrt(time * tuned + 1) / alpha)
    radius = spread * math.sqrt(mixture) - farthest * math.log(alpha) / time
    return Interval(mean, radius, spread * math.sqrt(max(0.0, 1 / n - 1 / min(enough, total))))


def average(values: Values) -> float:
    """The mean; 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0


def race(space: Sampled, keeps: Mapping[str, Keep], settle: Callable[[Mapping[str, Samples], int], _T | None]) -> _T:
    """Look at more and more batches of the keep-sets until `settle`, told of all that was seen, decides.

    After the last batch it must.
    """
    for batches in range(1, space.batches + 1):
        decided = settle({name: space.samples(keep, batches) for name, keep in keeps.items()}, batches)
        if decided is not None:
            return decided
    raise AssertionError("a race over all samples settles everything")


@dataclass
class RacingRule:
    """A `Rule` that races. All rulings together are wrong with probability 1 - confidence at most.

    `decisions`: how many there can be in one search; the k-th search has the k-th share of the probability.
    `floors`: by task, what its base is at least; `least`: samples that are looked at before a cut is accepted.
    """

    space: Sampled
    confidence: float
    decisions: int
    searches: int = 0
    floors: Mapping[str, float] = field(default_factory=dict)
    enough: int = ENOUGH
    least: int = 0

    def longer(self) -> RacingRule:
        """The same rule, which looks at more samples where it is close, and at ENOUGH before it accepts.

        A few samples with large losses make a mean: on the first few hundred a cut may look better than it is.
        """
        return replace(self, enough=LONGER, least=ENOUGH)

    @property
    def alpha(self) -> float:
        """What one interval of one task may err."""
        search = max(1, self.searches)
        share = 1 / (search * (search + 1))
        return (1 - self.confidence) * share / (self.decisions * max(1, len(self.space.weights)))

    def __call__(self, space: Space, turn: Turn, keep: Keep) -> Ruling:
        """The ruling on `keep`: paired with the samples of each task's base, until all tasks or one are settled."""
        keeps = {"": keep, **turn.base.keeps}
        return race(self.space, keeps, lambda seen, batches: self._settle(turn, keep, seen, batches))

    def _settle(self, turn: Turn, keep: Keep, seen: Mapping[str, Samples], batches: int) -> Ruling | None:
        whole = batches == self.space.batches
        if whole:
            base = {task: self.space.losses(at)[task] for task, at in turn.base.keeps.items()}
            return rule(self.space, turn.over({t: max(b, self.floors.get(t, b)) for t, b in base.items()}), keep)
        accepted = True
        for task, base_loss in turn.base.losses.items():
            new, old = seen[""].values[task], seen[task].values[task]
            allowed = turn.tolerance * turn.scale[task]
            found = self._excess(task, new, old, math.copysign(allowed, base_loss), seen[""].of(task))
            if not math.isfinite(found.mean):
                return self._ruling(turn, seen, accepted=False)
            self.space.close(found.close / max(abs(base_loss), 1e-30))
            if found.refused:
                return self._ruling(turn, seen, accepted=False)
            accepted &= found.allowed and seen[""].looked >= self.least
        return self._ruling(turn, seen, accepted=True) if accepted else None

    def _excess(self, task: str, new: Values, old: Values, allowed: float, total: int) -> Interval:
        """Of L - (1 + allowed) B, which is at most 0 where the rise is allowed; B is the old loss, or its floor."""
        if task not in self.floors:
            return interval(new - old - allowed * old, total, self.alpha, self.enough)
        # over the larger of two bases: the smaller of two excesses
        over_old = interval(new - old - allowed * old, total, self.alpha / 2, self.enough)
        over_floor = interval(new - (1 + allowed) * self.floors[task], total, self.alpha / 2, self.enough)
        return min(over_old, over_floor, key=lambda found: found.high)

    def _ruling(self, turn: Turn, seen: Mapping[str, Samples], *, accepted: bool) -> Ruling:
        """The ruling with losses estimated from the base's and the paired differences, where there is no floor."""
        losses = {
            task: average(seen[""].values[task] - seen[task].values[task]) + loss
            if task not in self.floors
            else average(seen[""].values[task])
            for task, loss in turn.base.losses.items()
        }
        task, rose = worst_rise(losses, turn.base.losses, turn.scale)
        return Ruling(losses, task, rose, accepted, seen[""].looked)
