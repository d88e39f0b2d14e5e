"""One group after the other: the frame of the published and the certified search (ALGORITHMS.md 1.2).

Groups go by what cutting `probe` of them saves. The group's finder climbs to a ratio; an accepted one is applied, the
tolerance grows by lambda, each task's base rises to its new loss. Of the cuts the share P with the least loss rise per
unit of cost saved is applied again in order, and what is left of the network is measured once more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pagcp_ir.channels import Keep
from passes.closeness import of_rises
from passes.schedule import total_of
from passes.space import Evaluation, Losses, Outcome, Space, Verdict, finite_base, rise, scales, worst_rise
from specs.options import Measure, PagcpOptions
from specs.plan import Decision, ranges
from specs.search import PathStep, SearchRecord

__all__ = [
    "Base",
    "Finding",
    "Rule",
    "Ruling",
    "Step",
    "Turn",
    "in_turn",
    "judged",
    "rejection",
    "rule",
    "told",
    "weighed",
]

TINY = 1e-20
"""What the authors' code divides by when a cut saves nothing."""


@dataclass(frozen=True)
class Base:
    """What rises are measured against: each task's loss, and the keep-set that has it."""

    losses: Losses
    keeps: Mapping[str, Keep]

    def raised(self, losses: Losses, keep: Keep) -> Base:
        """The base after `keep` was accepted: it only rises."""
        higher = {task for task, loss in self.losses.items() if losses[task] > loss}
        return Base(
            {task: losses[task] if task in higher else loss for task, loss in self.losses.items()},
            {task: keep if task in higher else old for task, old in self.keeps.items()},
        )


@dataclass(frozen=True)
class Ruling:
    """Whether a keep-set was accepted, and on what. `samples`: how many were looked at; None: all of them."""

    losses: Losses
    task: str
    rise: float
    accepted: bool
    samples: int | None = None


@dataclass(frozen=True)
class Step:
    """A cut that was accepted. `gain`: how far it raised the sum of the tasks' losses.

    `carried`: whether the search goes on from it.
    """

    group: str
    ratio: float
    keep: Keep
    losses: Losses
    task: str
    rise: float
    gain: float
    carried: bool = True


@dataclass(frozen=True)
class Turn:
    """One group's turn. `scale`: by task, its tolerance over `tolerance`; `enough`: whether a step ends the search.

    `first`: the losses before any cut; `taken`: the steps so far.
    """

    group: str
    keep: Keep
    base: Base
    tolerance: float
    scale: Mapping[str, float]
    first: Losses
    taken: tuple[Step, ...]
    enough: Callable[[Step], bool]
    measure: Measure = "loss"

    def load(self, ruling: Ruling) -> float:
        """The relative rise of the ruling's task over its scale."""
        return (ruling.rise - 1) / self.scale[ruling.task]

    def over(self, losses: Losses) -> Turn:
        """The same turn, its rises over these losses."""
        return replace(self, base=replace(self.base, losses=losses))

    def margin(self, ruling: Ruling) -> float:
        """What the ruling left of its task's tolerance."""
        return 1 + self.tolerance * self.scale[ruling.task] - ruling.rise


@dataclass(frozen=True)
class Finding:
    """What a group's turn found. `margin`: what its step left of the tolerance.

    `needs`, `breaks`: the turn ends alike for tolerances from needs to below breaks; `unknown`: whether a ratio below
    the accepted one was left unlooked at.
    """

    step: Step | None
    reason: str
    stopped_by: str | None = None
    margin: float = 0.0
    needs: float = 0.0
    breaks: float = math.inf
    unknown: bool = False
    seconds: float = 0.0


def rule(space: Space, turn: Turn, keep: Keep) -> Ruling:
    """The ruling on `keep` from every calibration sample: accepted where no task rises beyond its tolerance."""
    losses = space.losses(keep)
    task, rose = worst_rise(losses, turn.base.losses, turn.scale)
    allowed = {task: turn.tolerance * scale for task, scale in turn.scale.items()}
    space.close(of_rises(losses, turn.base.losses, allowed))
    return Ruling(losses, task, rose, rose <= 1 + turn.tolerance * turn.scale[task])


Rule = Callable[[Space, Turn, Keep], Ruling]


def judged(space: Space, turn: Turn, ratio: float, keep: Keep, rule: Rule = rule) -> Ruling:
    """The ruling on that ratio of the group, told to the space."""
    began = time.perf_counter()
    ruling = rule(space, turn, keep)
    told(space, turn, ratio, ruling, time.perf_counter() - began)
    return ruling


def told(space: Space, turn: Turn, ratio: float, ruling: Ruling, seconds: float) -> None:
    """Tell the space of a ruling."""
    verdict: Verdict = "accepted" if ruling.accepted else "rejected"
    space.note(
        Evaluation(turn.group, ratio, ruling.losses, ruling.task, ruling.rise, verdict, seconds, samples=ruling.samples)
    )


def weighed(space: Space, losses: Losses) -> float:
    """The sum of the losses, each by its task's weight."""
    return sum(weight * losses[task] for task, weight in space.weights.items())


def rejection(turn: Turn, ratio: float, ruling: Ruling) -> str:
    """The reason of a rejection, in words."""
    how = f"by {ruling.rise - 1:.1%}" if math.isfinite(ruling.rise) else "to a value that is not finite"
    allowed, verb = turn.tolerance * turn.scale[ruling.task], "rose" if turn.measure == "loss" else "got worse"
    return f"at ratio {ratio:.2f} the {turn.measure} of {ruling.task!r} {verb} {how}, {allowed:.1%} were allowed"


def in_turn(name: str, space: Space, options: PagcpOptions, factor: float, find: Callable[[Turn], Finding]) -> Outcome:
    """Give every group its turn. PassError P404 when the loss before any cut is not finite."""
    losses = finite_base(space)
    base = Base(options.bounded(losses), dict.fromkeys(losses, space.start))
    scale = scales(tuple(losses), options.tolerance, options.tolerances)
    share = int(options.top * len(space.groups))
    share = share if options.quirks else max(1, share)  # a share that keeps nothing is never meant
    tolerance, keep, span = options.tolerance, space.start, (0.0, math.inf)
    steps, found = list[Step](), dict[str, Finding]()

    def enough(step: Step | None = None) -> bool:
        taken = steps if step is None else [*steps, step]
        return options.stop == "budget" and space.met(_applied(space, taken, share)[0])

    order = ordered(space, options.probe, factor)
    for group, following in zip(order, [*order[1:], None], strict=True):
        began = time.perf_counter()
        space.ahead(following)
        if enough():
            found[group] = Finding(None, "the budgets were met before its turn")
            continue
        finding = find(Turn(group, keep, base, tolerance, scale, losses, tuple(steps), enough, options.measure))
        found[group] = replace(finding, seconds=time.perf_counter() - began)
        number = sum(step.carried for step in steps)
        span = _narrowed(span, finding, options.tolerance, number)
        if finding.step is not None:
            steps.append(finding.step)
            if finding.step.carried:
                tolerance, keep = tolerance * factor, finding.step.keep
                base = base.raised(finding.step.losses, keep)
    keep, applied = _applied(space, steps, share)
    record = SearchRecord(
        search=name,
        factors=_factors(space.losses(keep), losses),
        total=total_of(options.tolerance, factor, len(space.groups)),
        growth=factor,
        unknown=sum(finding.unknown for finding in found.values()),
        path=_path(space, steps, scale, options.tolerance) if len(applied) == len(steps) else (),
        start=losses,
    )
    return Outcome(keep, tuple(_decisions(space, found, keep, applied)), record, _ordered(span, factor))


def ordered(space: Space, probe: float, factor: float) -> list[str]:
    """By what cutting `probe` of the group saves: most first, or last when tolerances grow."""
    whole = space.cost(space.start)
    saved = {group: whole - space.cost(space.cut(space.start, group, probe).keep) for group in space.groups}
    return sorted(space.groups, key=lambda group: saved[group], reverse=factor <= 1)


def _narrowed(span: tuple[float, float], finding: Finding, tolerance: float, number: int) -> tuple[float, float]:
    """The growths for which the turn after `number` others ends alike: tolerance * growth^number in needs..breaks."""
    if number == 0:
        return span
    low, high = (
        (max(0.0, bound) / tolerance) ** (1 / number) if math.isfinite(bound) else bound
        for bound in (finding.needs, finding.breaks)
    )
    return max(span[0], low), min(span[1], high)


def _ordered(span: tuple[float, float], factor: float) -> tuple[float, float]:
    """Growths on the other side of 1 have another order of the groups."""
    if factor <= 1:
        return span[0], min(span[1], math.nextafter(1.0, 2.0))
    return max(span[0], math.nextafter(1.0, 2.0)), span[1]


def _applied(space: Space, steps: Sequence[Step], share: int) -> tuple[Keep, dict[str, Step]]:
    """The `share` cheapest steps applied again in the order of the search; scores follow the network so far."""
    if len(steps) <= share and all(step.carried for step in steps):  # the replay would give the last keep-set again
        return (steps[-1].keep if steps else space.start), {step.group: step for step in steps}
    chosen = list(steps)
    if len(steps) > share:
        dearness = _dearness(space, steps)
        order = sorted(range(len(steps)), key=lambda number: dearness[number])
        chosen = [steps[number] for number in sorted(order[:share])]
        space.close(_gap(space, steps, dearness[order[share]] - dearness[order[share - 1]]) if share else math.inf)
    keep = space.start
    for step in chosen:
        keep = space.cut(keep, step.group, step.ratio).keep
    return keep, {step.group: step for step in chosen}


def _gap(space: Space, steps: Sequence[Step], dearness: float) -> float:
    """A difference in dearness as a share of the summed loss, had the least saving of a step made it."""
    saved = min(space.cost(space.start) - space.cost(space.cut(space.start, s.group, s.ratio).keep) for s in steps)
    return dearness * saved / max(abs(sum(steps[0].losses.values())), TINY)


def _dearness(space: Space, steps: Sequence[Step]) -> list[float]:
    """Rise of the summed loss per unit of cost saved, all steps applied in order."""
    keep, found = space.start, []
    for step in steps:
        after = space.cut(keep, step.group, step.ratio).keep
        saved = space.cost(keep) - space.cost(after)
        found.append(step.gain / (saved or TINY))
        keep = after
    return found


def _path(space: Space, steps: Sequence[Step], scale: Mapping[str, float], tolerance: float) -> tuple[PathStep, ...]:
    """The steps as the search made them; none where it did not go on from each."""
    path, keep, cost = list[PathStep](), space.start, space.cost(space.start)
    for step in steps if all(step.carried for step in steps) else ():
        before, units, cost = cost, space.units(step.group), space.cost(step.keep)
        removed = ranges(int(i) for i in np.flatnonzero(keep[units] & ~step.keep[units]))
        price = max(0.0, step.rise - 1) / (tolerance * scale[step.task]) / ((before - cost) or TINY)
        path.append(PathStep(step.group, step.ratio, removed, cost, step.task, price, dict(step.losses)))
        keep = step.keep
    return tuple(path)


def _factors(losses: Losses, base: Losses) -> dict[str, float]:
    return {task: rise(losses[task], base[task]) for task in base}


def _decisions(
    space: Space,
    found: Mapping[str, Finding],
    keep: Keep,
    applied: Mapping[str, Step],
) -> list[Decision]:
    decisions = []
    for group, finding in found.items():
        step, reason = applied.get(group), finding.reason
        if finding.step is not None and step is None:
            reason += "; dropped: its loss rise per MAC is not in the top share"
        decisions.append(
            Decision(
                group=group,
                width=len(space.units(group)),
                kept=int(keep[space.units(group)].sum()),
                stopped_by=finding.stopped_by,
                ratio=0.0 if step is None else step.ratio,
                losses={} if step is None else dict(step.losses),
                margin=0.0 if step is None else finding.margin,
                reason=reason,
                seconds=finding.seconds,
                rise=0.0 if step is None else step.rise - 1,
            )
        )
    return decisions
