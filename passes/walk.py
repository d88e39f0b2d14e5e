"""Where a marginal search stands: what it has cut, what the next step of every group costs, and in what it measures.

A task's load is its relative rise over its tolerance, (L / B - 1) / d. A step costs each task the load that it adds.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from pagcp_ir.channels import Keep
from passes.closeness import of_loads
from passes.space import Evaluation, Losses, Space, rise
from specs.options import Measure, PagcpOptions

__all__ = ["Appraisal", "Appraiser", "FullAppraiser", "Move", "Walk", "Yardstick"]

LEAST, PER_GROUP = 12, 1.25
"""Moves in which the budgets are to be met, at least and per group, where the options leave it to the search."""
WIDE = 0.3
"""Share of a group that no move needs to exceed."""


@dataclass(frozen=True)
class Yardstick:
    """What loads are measured with: each task's loss before any cut, and its tolerance."""

    base: Losses
    tolerance: Mapping[str, float]

    def load(self, task: str, loss: float) -> float:
        """The relative rise over the tolerance."""
        return (rise(loss, self.base[task]) - 1) / self.tolerance[task]

    def worst(self, losses: Losses) -> tuple[str, float]:
        """The task with the largest load, and that load."""
        loads = {task: self.load(task, losses[task]) for task in self.base}
        worst = max(loads, key=lambda task: loads[task])
        return worst, loads[worst]

    def dearest(self, before: Losses, after: Losses) -> tuple[str, float]:
        """The task to which the step adds most load, and how much: at least 0."""
        added = {task: _added(self.load(task, after[task]), self.load(task, before[task])) for task in self.base}
        worst = max(added, key=lambda task: added[task])
        return worst, max(added[worst], 0.0)


def _added(after: float, before: float) -> float:
    return math.inf if math.isinf(after) else after - before


@dataclass(frozen=True)
class Appraisal:
    """The losses of a keep-set, measured or estimated. `samples`: how many were looked at; None: all of them.

    `better`: whether its worst load is smaller than another's, where that was asked.
    """

    losses: Losses
    samples: int | None = None
    better: bool = False


class Appraiser(Protocol):
    """Says what keep-sets lose."""

    def appraise(
        self, before: Keep, after: Keep, origin: Losses, yardstick: Yardstick, saved: float, bar: float
    ) -> Appraisal:
        """The losses of `after`, where `before` has `origin`, well enough to hold the step's price against `bar`."""

    def better(self, keep: Keep, than: Keep, yardstick: Yardstick) -> Appraisal:
        """The losses of `keep`, and whether on all samples its worst load is below that of `than`."""


@dataclass(frozen=True)
class FullAppraiser:
    """Looks at all samples, always."""

    space: Space

    def appraise(
        self, before: Keep, after: Keep, origin: Losses, yardstick: Yardstick, saved: float, bar: float
    ) -> Appraisal:
        """See Appraiser."""
        return Appraisal(self.space.losses(after))

    def better(self, keep: Keep, than: Keep, yardstick: Yardstick) -> Appraisal:
        """See Appraiser."""
        losses, old = self.space.losses(keep), self.space.losses(than)
        return Appraisal(losses, better=yardstick.worst(losses)[1] < yardstick.worst(old)[1])


@dataclass(frozen=True, eq=False)
class Move:
    """A step of one group, from keep-set `before` to `after`, and from the losses `origin` to `losses`.

    `price`: what it adds to the load of `task`, to which it adds most, per unit of cost saved.
    """

    group: str
    ratio: float
    before: Keep
    after: Keep
    saved: float
    task: str = ""
    price: float = 0.0
    origin: Losses = field(default_factory=dict)
    losses: Losses = field(default_factory=dict)

    def given_back(self, keep: Keep) -> Keep:
        """`keep` with the units that the move cut."""
        whole: Keep = np.logical_or(keep, self.before & ~self.after)
        return whole


@dataclass
class Walk:
    """Where the search stands, the moves that led there, and the next move of every group as it was last priced."""

    space: Space
    options: PagcpOptions
    appraiser: Appraiser
    yardstick: Yardstick
    keep: Keep
    losses: Losses
    moves: list[Move] = field(default_factory=list)
    queue: list[tuple[float, float, int, str]] = field(default_factory=list)
    priced: dict[str, tuple[int, Move]] = field(default_factory=dict)
    stopped: dict[str, tuple[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    careful: set[str] = field(default_factory=set)

    @cached_property
    def stride(self) -> float:
        """What a step is meant to save."""
        moves = max(LEAST, PER_GROUP * len(self.space.groups)) if self.options.moves == "auto" else self.options.moves
        return self.space.to_save / moves if moves else 0.0

    @property
    def limit(self) -> float:
        """The largest load allowed: that of a task of tolerance d at the total T, (T - 1) / d."""
        total = self.options.total
        return math.inf if total == "auto" else (total - 1) / self.options.tolerance

    def done(self) -> bool:
        """Whether the budgets are met, the latency's as measured."""
        return self.options.stop == "budget" and self.space.met(self.keep) and self.space.confirmed(self.keep)

    def next_move(self, group: str, keep: Keep) -> Move | None:
        """The group's next step from `keep`, not priced; None when no ratio of the grid cuts more.

        It is the first one along the grid that saves a stride, or that cuts WIDE of the group and saves anything: fewer
        channels do not always save time.
        """
        move = None
        for ratio in self.options.grid:
            after = self.space.cut(keep, group, ratio).keep
            if bool((after == keep).all()):
                continue
            move = Move(group, ratio, keep, after, self.space.saved(keep, after))
            if move.saved > 0 and (group in self.careful or move.saved >= self.stride or self._wide(move)):
                break
        return None if move is None else self.sized(move)

    def _wide(self, move: Move) -> bool:
        units = self.space.units(move.group)
        return int((move.before & ~move.after)[units].sum()) >= WIDE * len(units)

    def sized(self, move: Move) -> Move:
        """The move, made no larger than the budgets ask for."""
        after, ratio = move.after, move.ratio
        if self.options.stop == "budget" and self.space.met(after):
            ratio, after = _finest(self.space, move)
        return replace(move, ratio=ratio, after=after, saved=self.space.saved(move.before, after))

    def push(self, group: str, price: float, saved: float = 0.0) -> None:
        """Queue the group's next move at that price; among equal prices what saves most goes first."""
        heapq.heappush(self.queue, (price, -saved, len(self.queue), group))

    def priced_move(self, group: str) -> Move | None:
        """The group's next move, priced from here. None, and the reason noted, when there is none.

        A group whose stride would cost too much goes on by single steps of the grid.
        """
        began = time.perf_counter()
        move = self.next_move(group, self.keep)
        if move is None:
            note = self.space.cut(self.keep, group, self.options.grid[-1]).note
            self.stopped[group] = "", note or "the last ratio of the grid was reached"
            return None
        bar = self.queue[0][0] if self.queue else math.inf
        found = self.appraiser.appraise(move.before, move.after, self.losses, self.yardstick, move.saved, bar)
        task, added = self.yardstick.dearest(self.losses, found.losses)
        price = added / move.saved if move.saved > 0 else math.inf
        move = replace(move, task=task, price=price, origin=self.losses, losses=found.losses)
        seconds = time.perf_counter() - began
        self.seconds[group] = self.seconds.get(group, 0.0) + seconds
        rose = rise(found.losses[task], self.yardstick.base[task])
        self.space.note(Evaluation(group, move.ratio, found.losses, task, rose, "priced", seconds, found.samples))
        worst, load = self.yardstick.worst(found.losses)
        self.space.close(self._close(worst, load, self.limit))
        if (load > self.limit or math.isinf(load)) and self.stride and group not in self.careful:
            self.careful.add(group)
            return self.priced_move(group)
        if load > self.limit or math.isinf(load):
            tolerance = self.yardstick.tolerance[worst]
            self.stopped[group] = worst, _refusal(worst, load, self.limit, tolerance, self.options.measure)
            return None
        self.priced[group] = len(self.moves), move
        return move

    def _close(self, task: str, load: float, other: float) -> float:
        tolerance = self.yardstick.tolerance[task]
        return of_loads(load, other, tolerance, 1 + load * tolerance)

    def dearer(self, move: Move, price: float) -> None:
        """Tell the space how close it was that the move's price is above that price, or below."""
        if move.price != price:  # what is equal is decided by what is exact
            load = self.yardstick.load(move.task, move.losses[move.task])
            self.space.close(self._close(move.task, load, load + (price - move.price) * move.saved))

    def compared(self, losses: Losses) -> None:
        """Tell the space how close it was that these losses are better than those of here, or worse."""
        task, load = self.yardstick.worst(losses)
        self.space.close(self._close(task, load, self.yardstick.worst(self.losses)[1]))

    def holds(self) -> bool:
        """Whether the losses are within the total."""
        task, load = self.yardstick.worst(self.losses)
        self.space.close(self._close(task, load, self.limit))
        return load <= self.limit

    def take(self, move: Move) -> None:
        """Make the move."""
        self.moves.append(move)
        self.keep, self.losses = move.after, move.losses


def _finest(space: Space, move: Move) -> tuple[float, Keep]:
    """The smallest ratio and its cut that meet the budgets as `move` does."""
    width, before = len(space.units(move.group)), int(move.before[space.units(move.group)].sum())
    for removed in range(width - before + 1, width + 1):
        ratio = removed / width
        after = space.cut(move.before, move.group, ratio).keep
        if ratio >= move.ratio:
            break
        if space.met(after):
            return ratio, after
    return move.ratio, move.after


def _refusal(task: str, load: float, limit: float, tolerance: float, measure: Measure) -> str:
    does = f"its next cut {'raises' if measure == 'loss' else 'worsens'} the {measure} of {task!r}"
    if math.isinf(load):
        return f"{does} to a value that is not finite"
    return f"{does} by {load * tolerance:.1%}, {limit * tolerance:.1%} are allowed"
