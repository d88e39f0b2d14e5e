"""PAGCP's sequential search (arXiv 2303.11923; ALGORITHMS.md 1.2), pure: it asks a Space, and nothing else.

d_i = d_0 * lambda^i with prod_i (1 + d_i) = T. Group by group the ratio climbs until some task's loss exceeds
(1 + d) times its base; the last ratio accepted is applied, d shrinks by lambda, the base rises to the new losses.
Of the cuts the share P with the least loss rise per MAC is applied again in order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import brentq

from pagcp_ir.channels import Keep
from passes.ratios import Trim
from specs.diagnostics import PassError
from specs.options import PagcpOptions
from specs.plan import Decision

__all__ = ["Evaluation", "Outcome", "Space", "growth", "published", "worst_rise"]

Losses = Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """One question to the oracle and what the search made of it. `rise`: L_t / B_t of the worst task."""

    group: str
    ratio: float
    losses: Losses
    task: str
    rise: float
    accepted: bool
    seconds: float


class Space(Protocol):
    """What the search may ask of a network. Keep-sets are bool arrays over its units."""

    @property
    def start(self) -> Keep:
        """The keep-set to start from."""

    @property
    def groups(self) -> Sequence[str]:
        """The groups that may be cut, in the network's order."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each task in sums of losses."""

    def width(self, group: str) -> int:
        """How many units the group has in the original network."""

    def kept(self, group: str, keep: Keep) -> int:
        """How many of them are kept."""

    def cut(self, keep: Keep, group: str, ratio: float) -> Trim:
        """That ratio of the group cut, by score on the network as it is under `keep`."""

    def macs(self, keep: Keep) -> int:
        """MACs under `keep`."""

    def met(self, keep: Keep) -> bool:
        """Whether there are budgets and `keep` meets them all."""

    def losses(self, keep: Keep) -> Losses:
        """Each task's mean loss over the calibration set under `keep`."""

    def note(self, evaluation: Evaluation) -> None:
        """Told of every evaluation, for the journal."""


@dataclass(frozen=True)
class Outcome:
    """The keep-set found, why per group (in the order searched), and the schedule's lambda."""

    keep: Keep
    decisions: tuple[Decision, ...]
    growth: float


@dataclass(frozen=True)
class _Step:
    """A cut that was accepted. `dearness`: the rise of the summed loss per MAC that it removes."""

    group: str
    ratio: float
    keep: Keep
    losses: Losses
    dearness: float


@dataclass(frozen=True)
class _Scan:
    """What the climb through the ratios of one group found. `margin`: 1 + d less the accepted step's rise."""

    step: _Step | None
    stopped_by: str | None
    margin: float
    reason: str


def growth(tolerance: float, total: float, n: int) -> float:
    """lambda > 0 with prod_{i<n} (1 + tolerance * lambda^i) = total; 1.0 for a single group.

    The product grows with lambda from 1 + tolerance on, so that `total` must exceed that (PassError P403).
    """
    if total <= 1 + tolerance:
        raise PassError.one("P403", f"total must exceed 1 + tolerance = {1 + tolerance:g}, got {total:g}")
    if n <= 1:
        return 1.0

    def excess(factor: float) -> float:
        # in logarithms; lambda^i may overflow where the product is far too large anyway
        with np.errstate(over="ignore"):
            terms = np.log1p(tolerance * np.power(factor, np.arange(n, dtype=np.float64)))
        return min(float(terms.sum()), 1e6) - math.log(total)

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-14, rtol=1e-14))


def worst_rise(losses: Losses, base: Losses) -> tuple[str, float]:
    """The task whose loss rose most, and L / B (1 + rise / |B| where B <= 0). A NaN counts as infinite."""
    rises = {task: _rise(losses[task], base[task]) for task in base}
    worst = max(rises, key=lambda task: rises[task])
    return worst, rises[worst]


def _rise(loss: float, base: float) -> float:
    if not math.isfinite(loss):
        return math.inf
    if base > 0:
        return loss / base
    if loss <= base:
        return 1.0
    return 1 + (loss - base) / abs(base) if base else math.inf


def published(space: Space, options: PagcpOptions) -> Outcome:
    """Search the space. PassError P404 when the loss before any cut is not finite."""
    base = dict(space.losses(space.start))
    for task, loss in base.items():
        if not math.isfinite(loss):
            raise PassError.one("P404", f"the loss of task {task!r} is {loss} before anything is cut")
    factor = growth(options.tolerance, float(options.total), len(space.groups))
    # at least one: a share that keeps nothing is never meant
    share = max(1, int(options.top * len(space.groups)))
    tolerance, steps, scans = options.tolerance, list[_Step](), dict[str, tuple[_Scan, float]]()

    def enough(steps: Sequence[_Step]) -> bool:
        return options.stop == "budget" and space.met(_applied(space, steps, share)[0])

    for group in _ordered(space, options.probe, factor):
        began = time.perf_counter()
        if enough(steps):
            scans[group] = _Scan(None, None, 0.0, "the budgets were met before its turn"), 0.0
            continue
        keep = steps[-1].keep if steps else space.start
        scan = _climb(space, options.grid, keep, group, base, tolerance, lambda step: enough([*steps, step]))
        scans[group] = scan, time.perf_counter() - began
        if scan.step is not None:
            steps.append(scan.step)
            tolerance *= factor
            base = {task: max(base[task], scan.step.losses[task]) for task in base}
    keep, applied = _applied(space, steps, share)
    return Outcome(keep, tuple(_decisions(space, scans, keep, applied)), factor)


def _ordered(space: Space, probe: float, factor: float) -> list[str]:
    """By the MACs that cutting `probe` of the group removes: most first, or last when tolerances grow."""
    whole = space.macs(space.start)
    saved = {group: whole - space.macs(space.cut(space.start, group, probe).keep) for group in space.groups}
    return sorted(space.groups, key=lambda group: saved[group], reverse=factor <= 1)


def _climb(
    space: Space,
    grid: Sequence[float],
    keep: Keep,
    group: str,
    base: Losses,
    tolerance: float,
    enough: Callable[[_Step], bool],
) -> _Scan:
    """Ratios ascending up to the first rejection; the last one accepted is the group's."""
    before, macs = _total(space, base), space.macs(keep)
    step, margin, note = None, 0.0, ""
    for ratio in grid:
        trim = space.cut(keep, group, ratio)
        note = trim.note
        if bool((trim.keep == keep).all()):
            continue
        began = time.perf_counter()
        losses = space.losses(trim.keep)
        task, rise = worst_rise(losses, base)
        accepted = rise <= 1 + tolerance
        space.note(Evaluation(group, ratio, losses, task, rise, accepted, time.perf_counter() - began))
        if not accepted:
            told = f"by {rise - 1:.1%}" if math.isfinite(rise) else "to a value that is not finite"
            reason = f"at ratio {ratio:.2f} the loss of {task!r} rose {told}, {tolerance:.1%} were allowed"
            return _Scan(step, task, margin, reason)
        removed = macs - space.macs(trim.keep)
        gain = _total(space, losses) - before
        step = _Step(group, ratio, trim.keep, losses, gain / removed if removed else math.inf)
        margin = 1 + tolerance - rise
        if enough(step):
            return _Scan(step, None, margin, f"the budgets were met at ratio {ratio:.2f}")
    if step is None:
        return _Scan(None, None, 0.0, note or "no ratio of the grid removes a channel")
    reason = f"every ratio up to {step.ratio:.2f} was accepted"
    return _Scan(step, None, margin, f"{reason}; {note}" if note else reason)


def _total(space: Space, losses: Losses) -> float:
    return sum(weight * losses[task] for task, weight in space.weights.items())


def _applied(space: Space, steps: Sequence[_Step], share: int) -> tuple[Keep, dict[str, _Step]]:
    """The `share` cheapest steps applied again in the order of the search; scores follow the network so far."""
    if len(steps) <= share:  # nothing is dropped: the replay would give the last keep-set again
        return (steps[-1].keep if steps else space.start), {step.group: step for step in steps}
    cheapest = sorted(steps, key=lambda step: step.dearness)[:share]
    chosen = {step.group: step for step in steps if any(step is kept for kept in cheapest)}
    keep = space.start
    for step in chosen.values():
        keep = space.cut(keep, step.group, step.ratio).keep
    return keep, chosen


def _decisions(
    space: Space, scans: Mapping[str, tuple[_Scan, float]], keep: Keep, applied: Mapping[str, _Step]
) -> list[Decision]:
    found = []
    for group, (scan, seconds) in scans.items():
        step, reason = applied.get(group), scan.reason
        if scan.step is not None and step is None:
            reason += "; dropped: its loss rise per MAC is not in the top share"
        found.append(
            Decision(
                group=group,
                width=space.width(group),
                kept=space.kept(group, keep),
                stopped_by=scan.stopped_by,
                ratio=0.0 if step is None else step.ratio,
                losses={} if step is None else dict(step.losses),
                margin=scan.margin if step else 0.0,
                reason=reason,
                seconds=seconds,
            )
        )
    return found
