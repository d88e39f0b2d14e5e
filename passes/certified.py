"""The published search with few evaluations: of each group a ratio that is accepted while the next one is rejected.

Where to look is predicted: log(rise / tolerance) is taken to be linear in logit(ratio), through the two ends of the
bracket or, where there is one end only, with the slope of the groups before; where the calibration set is large, a part
of it is bisected instead, and what that found is looked at on larger parts. Only evaluations decide: both neighbours
are evaluated, going on from the parts. The ratio is the scan's wherever acceptance is monotone; a dip below it that was
not looked at would have stopped the scan earlier, so the groups in which a smaller ratio was left out are counted as
unknown. Where rulings come from a part of the samples, both are looked at for longer, and the ratio found is measured
on all of them, the next smaller one taken if it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from pagcp_ir.channels import Keep
from passes.ratios import Trim
from passes.sequential import Finding, Rule, Ruling, Step, Turn, in_turn, judged, rejection, weighed
from passes.sequential import rule as full
from passes.space import Losses, Outcome, Space, worst_rise
from specs.options import PagcpOptions

__all__ = ["Judge", "Scout", "certified"]

Scout = Callable[[Keep], Losses]
"""Each task's loss on a part of the calibration set."""

FIRST = 0.35
"""The ratio at which the first group is looked at."""
SLOPE = 2.0
"""Of log(rise / tolerance) over logit(ratio), before anything is known."""
SMALL, LARGE = 0.01, 100.0
"""Rises over tolerances beyond these say no more than that they are small or large."""


@dataclass(frozen=True)
class Judge:
    """What rules on cuts. `longer`: looks longer at both ends in the end; `scouts`: say where to look first."""

    rule: Rule = full
    longer: Rule | None = None
    scouts: Sequence[Scout] = ()


EXACT = Judge()
"""All samples, always."""


@dataclass(frozen=True)
class _Cut:
    """A cut of the group, and the smallest and the largest ratio of the grid that make it."""

    first: float
    last: float
    trim: Trim

    @property
    def place(self) -> float:
        middle = (self.first + self.last) / 2
        return math.log(middle / (1 - middle))


@dataclass
class _Experience:
    """What groups before taught: where the tolerance was reached, and how steeply the rise went through it."""

    places: list[float] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)

    @property
    def place(self) -> float:
        return median(self.places) if self.places else math.log(FIRST / (1 - FIRST))

    @property
    def slope(self) -> float:
        return median(self.slopes) if self.slopes else SLOPE


@dataclass
class _Bracket:
    """Cut number `low` was accepted (0: no cut), number `high` was rejected (the number of cuts + 1: none)."""

    cuts: Sequence[_Cut]
    turn: Turn
    high: int
    low: int = 0
    rulings: dict[int, Ruling] = field(default_factory=dict)
    scouted: int | None = None
    looked: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.end = self.high

    def next(self, experience: _Experience) -> int:
        """The number to evaluate next, strictly between low and high."""
        if self.scouted is not None:  # it, and its neighbour on the side that is left
            return min(max(self.scouted, self.low + 1), self.high - 1)
        if len(self.rulings) > 3:  # predictions have not helped
            return (self.low + self.high) // 2
        place = self._crossing(experience)
        last = sum(cut.place <= place for cut in self.cuts)
        return min(max(last, self.low + 1), self.high - 1)

    def _crossing(self, experience: _Experience) -> float:
        """Where the rise is predicted to reach the tolerance."""
        low, high = (self._point(number) for number in (self.low, self.high))
        if low is not None and high is not None:
            share = -low[1] / (high[1] - low[1]) if high[1] > low[1] else 0.5
            return low[0] + share * (high[0] - low[0])
        known = low or high
        return experience.place if known is None else known[0] - known[1] / experience.slope

    def _point(self, number: int) -> tuple[float, float] | None:
        """Place and log(rise / tolerance) of a cut that was evaluated."""
        if number not in self.rulings:
            return None
        load = self.turn.load(self.rulings[number]) / self.turn.tolerance
        return self.cuts[number - 1].place, math.log(min(max(load, SMALL), LARGE))

    def longer(self, number: int, judge: Judge) -> Rule | None:
        """The rule that looks longer at that cut, once."""
        if number in self.looked:
            return None
        self.looked.add(number)
        return judge.longer

    def partly(self, number: int) -> bool:
        """Whether the ruling on that cut came from a part of the samples."""
        return number in self.rulings and self.rulings[number].samples is not None

    def accepted(self) -> list[int]:
        """The accepted cuts below `high`."""
        return [number for number, ruling in self.rulings.items() if ruling.accepted and number < self.high]

    def rejected(self) -> list[int]:
        """The rejected cuts above `low`."""
        return [number for number, ruling in self.rulings.items() if not ruling.accepted and number > self.low]

    def learn(self, experience: _Experience) -> None:
        """Add what this group taught."""
        low, high = self._point(self.low), self._point(self.high)
        if low is not None and high is not None and high[1] > low[1]:
            experience.places.append(self._crossing(experience))
            if math.log(SMALL) < low[1] and high[1] < math.log(LARGE):
                experience.slopes.append((high[1] - low[1]) / (high[0] - low[0]))


def certified(space: Space, options: PagcpOptions, factor: float, judge: Judge = EXACT) -> Outcome:
    """Search the space, tolerances growing by `factor`. PassError P404: a loss that is not finite before any cut."""
    experience = _Experience()

    def find(turn: Turn) -> Finding:
        return _find(space, options, turn, experience, judge)

    return in_turn("certified", space, options, factor, find)


def _find(space: Space, options: PagcpOptions, turn: Turn, experience: _Experience, judge: Judge) -> Finding:
    cuts = _cuts(space, turn, options.grid)
    if not cuts:
        note = space.cut(turn.keep, turn.group, options.grid[-1]).note
        return Finding(None, note or "no ratio of the grid removes a channel")
    whole = len(cuts)
    end = whole
    if options.stop == "budget":  # the scan would stop there
        end = next((n for n, cut in enumerate(cuts, 1) if space.met(cut.trim.keep)), whole)
    bracket = _Bracket(cuts, turn, end + 1)
    if judge.scouts:
        bracket.scouted = _scouted(bracket, judge.scouts)
    while True:
        while bracket.high - bracket.low > 1:
            _evaluate(space, bracket, bracket.next(experience), judge.rule)
        if (close := _close(bracket, judge)) is not None:
            _evaluate(space, bracket, *close)
            continue
        step = _step(space, bracket)
        met = step is not None and options.stop == "budget" and turn.enough(step)
        if met or bracket.high in bracket.rulings or bracket.low == whole:
            break
        bracket.high += 1
    bracket.learn(experience)
    return _finding(bracket, step, met)


def _close(bracket: _Bracket, judge: Judge) -> tuple[int, Rule] | None:
    """The end of a closed bracket to look at more closely, and how.

    What is accepted is measured on all samples in the end, which goes on from what was looked at: to look for longer
    first costs nothing, and less where it fails.
    """
    low, high = bracket.low, bracket.high
    if bracket.partly(low):
        return low, bracket.longer(low, judge) or full
    longer = bracket.longer(high, judge) if bracket.partly(high) else None
    return None if longer is None else (high, longer)


def _scouted(bracket: _Bracket, scouts: Sequence[Scout]) -> int:
    """The largest cut that seems to be accepted; 1 when none does.

    The first part of the samples is bisected. On the next ones it goes on to where a cut seems to be accepted and the
    next one rejected there as well.
    """
    low, high = 0, bracket.high
    for scout in scouts:
        seems = _Seems(bracket, scout)
        if scout is scouts[0]:
            while high - low > 1:
                number = (low + high) // 2
                low, high = (number, high) if seems(number) else (low, number)
        elif low > 0 and not seems(low):
            while low > 0 and not seems(low):
                low -= 1
        else:
            while low + 1 < bracket.high and seems(low + 1):
                low += 1
    return max(low, 1)


class _Seems:
    """Whether a cut of the bracket seems to be accepted, going by a part of the samples."""

    def __init__(self, bracket: _Bracket, scout: Scout) -> None:
        self._cuts, self._turn, self._scout = bracket.cuts, bracket.turn, scout
        self._base = {task: scout(keep)[task] for task, keep in bracket.turn.base.keeps.items()}

    def __call__(self, number: int) -> bool:
        scale = self._turn.scale
        task, rose = worst_rise(self._scout(self._cuts[number - 1].trim.keep), self._base, scale)
        return rose <= 1 + self._turn.tolerance * scale[task]


def _evaluate(space: Space, bracket: _Bracket, number: int, rule: Rule) -> None:
    """Rule on that cut and move the bracket's end there."""
    cut = bracket.cuts[number - 1]
    ruling = bracket.rulings[number] = judged(space, bracket.turn, cut.first, cut.trim.keep, rule)
    if ruling.accepted:
        bracket.low = number
        if number == bracket.high:
            bracket.high = min(bracket.rejected(), default=bracket.end)
    else:
        bracket.high = number
        if number == bracket.low:
            bracket.low = max(bracket.accepted(), default=0)


def _cuts(space: Space, turn: Turn, grid: Sequence[float]) -> list[_Cut]:
    """The grid's distinct cuts, without those that cut nothing."""
    found: list[_Cut] = []
    last = turn.keep
    for ratio in grid:
        trim = space.cut(turn.keep, turn.group, ratio)
        if not bool((trim.keep == last).all()):
            found.append(_Cut(ratio, ratio, trim))
            last = trim.keep
        elif found:
            found[-1] = replace(found[-1], last=ratio, trim=trim)
    return found


def _step(space: Space, bracket: _Bracket) -> Step | None:
    if bracket.low == 0:
        return None
    cut, ruling, turn = bracket.cuts[bracket.low - 1], bracket.rulings[bracket.low], bracket.turn
    gain = weighed(space, ruling.losses) - weighed(space, turn.base.losses)
    return Step(turn.group, cut.last, cut.trim.keep, ruling.losses, ruling.task, ruling.rise, gain)


def _finding(bracket: _Bracket, step: Step | None, met: bool) -> Finding:
    turn, rulings = bracket.turn, bracket.rulings
    loads = {True: [0.0], False: [math.inf]}
    for ruling in rulings.values():
        loads[ruling.accepted].append(turn.load(ruling))
    stopped = rulings.get(bracket.high)
    if stopped is not None and not met:
        reason = rejection(turn, bracket.cuts[bracket.high - 1].first, stopped)
    elif met and step is not None:
        reason = f"the budgets were met at ratio {step.ratio:.2f}"
    else:
        cut = bracket.cuts[-1]
        note = f"; {cut.trim.note}" if cut.trim.note else ""
        reason = f"the last ratio, {cut.last:.2f}, was accepted{note}"
    return Finding(
        step=step,
        reason=reason,
        stopped_by=stopped.task if stopped is not None and not met else None,
        margin=0.0 if step is None else turn.margin(rulings[bracket.low]),
        needs=max(loads[True]),
        breaks=min(loads[False]),
        unknown=any(number not in rulings for number in range(1, bracket.low)),
    )
