"""Giving cuts back: which ones, and what is made of the network without them.

Of every group that was cut, the half of its cut that the selector's criterion ranks highest is given back alone, on the
network as the selectors got it, and the task's loss on the calibration set measured. What lowers it most per MAC goes
back first, and what does not change it not at all; groups are measured again once each gave its half. Widths stay
those that the selector's options allow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pagcp_ir.channels import Keep
from pagcp_ir.compensate import described
from pagcp_ir.cost import costs
from pagcp_ir.planning import make_plan
from passes.base import Context, Pass, State, cut_to, flat, run_passes
from passes.compensate import compensator
from passes.criteria import scores
from passes.ratios import Cutter
from specs.back_off import GivenBack
from specs.options import SelectorOptions
from specs.plan import Decision

__all__ = ["Giving", "More"]


@dataclass(frozen=True)
class _Candidate:
    """A group with a part of its cut given back. `worth`: what the task's loss falls by, per MAC."""

    group: str
    keep: Keep
    worth: float


@dataclass(frozen=True)
class More:
    """A keep-set with less cut, and what was given back to come to it."""

    keep: Keep
    given: list[GivenBack]


class Giving:
    """Gives cuts back, and recovers what is left of them."""

    def __init__(self, passes: Sequence[Pass], start: State, end: State, ctx: Context) -> None:
        steps = flat(passes)
        selectors = [number for number, step in enumerate(steps) if step.kind == "selector"]
        self._selector = steps[selectors[-1]]
        self._recovery = [step for step in steps[selectors[0] :] if step.kind == "transformer"]
        self._whole = replace(start, program=end.uncut or start.program)
        self._ctx = replace(ctx, original=ctx.original or start.program)
        self._cut = end.plan.after.macs

    def until(self, keep: Keep, task: str, share: float) -> More:
        """Give back what cost `task` most, until that share of the MACs cut at first is there again."""
        channels, given = self._whole.channels, list[GivenBack]()
        asked = self._cut + share * (self._whole.plan.before.macs - self._cut)
        while costs(channels, keep).macs < asked and not bool(keep.all()):
            before, found = keep, self._candidates(keep, task)
            helping = [each for each in found if each.worth > 0] or [each for each in found if each.worth != 0]
            if not helping:  # all that is cut is none of that task's
                break
            for each in sorted(helping, key=lambda each: -each.worth):
                units, old = channels.group(each.group).units, costs(channels, keep).macs
                keep = self._no_more(keep, each, asked)
                narrow, wide = (int(k[units].sum()) for k in (before, keep))
                macs = costs(channels, keep).macs
                given.append(GivenBack(each.group, narrow, wide, task, macs - old))
                if macs >= asked:
                    break
        return More(keep, given)

    def recovered(self, end: State, keep: Keep, given: Sequence[GivenBack]) -> State:
        """The network cut to `keep`, and what the transformers make of it."""
        original = self._ctx.original
        assert original is not None
        plan = make_plan(original, self._whole.channels, keep)
        cut = cut_to(self._selector, self._whole, replace(self._whole, plan=plan), self._ctx)
        cut = replace(cut, decisions=_decided(end.decisions, given), searches=end.searches)
        return run_passes(self._recovery, cut, self._ctx)

    def _candidates(self, keep: Keep, task: str) -> list[_Candidate]:
        """Every group of which something is cut, with half of that given back."""
        channels, found = self._whole.channels, list[_Candidate]()
        old, macs = self._losses(keep)[task], costs(channels, keep).macs
        for group in self._cutter.groups:
            if bool(keep[group.units].all()):
                continue
            less = self._halved(keep, group.name)
            began = time.perf_counter()
            losses = self._losses(less)
            worth = (old - losses[task]) / max(1, costs(channels, less).macs - macs)
            ratio = 1 - float(less[group.units].mean())
            told = {"group": group.name, "ratio": ratio, "losses": dict(losses), "task": task, "verdict": "priced"}
            self._ctx.note("evaluation", **told, seconds=round(time.perf_counter() - began, 4))
            found.append(_Candidate(group.name, less, -math.inf if math.isnan(worth) else worth))
        return found

    def _halved(self, keep: Keep, name: str) -> Keep:
        """`keep` with the better half of the group's cut given back, all of it where half is no legal width."""
        units = self._whole.channels.group(name).units
        less = self._cut_to(keep, name, int((~keep[units]).sum()) // 2)
        return self._cut_to(keep, name, 0) if np.array_equal(less, keep) else less

    def _cut_to(self, keep: Keep, name: str, removed: int) -> Keep:
        """`keep` with so many of the group's units cut, the worst of those that are, or with less given back."""
        group = self._whole.channels.group(name)
        whole = keep.copy()
        whole[group.units] = True
        ranks = self._scores[name]
        ranks = np.where(keep[group.units], math.inf, 0.0 if ranks is None else ranks)
        less: Keep = self._cutter.cut(whole, group, ranks, removed / group.units.size).keep | keep
        return less

    def _no_more(self, keep: Keep, each: _Candidate, asked: float) -> Keep:
        """`keep` with what the candidate gives back, or as much of it as comes to `asked` MACs."""
        channels, units = self._whole.channels, self._whole.channels.group(each.group).units
        gone, left = (int((~k[units]).sum()) for k in (keep, each.keep))
        for removed in range(gone - 1, left, -1):
            less = self._cut_to(keep, each.group, removed)
            if costs(channels, less).macs >= asked:
                return less
        return keep | each.keep

    def _losses(self, keep: Keep) -> Mapping[str, float]:
        oracle = self._ctx.need_oracle("on_miss: back_off")
        return oracle.losses(self._whole.program, self._here, keep, self._finish)

    @cached_property
    def _here(self) -> Any:
        return described(self._whole.program, self._whole.channels)

    @cached_property
    def _finish(self) -> Any:
        return compensator(self._selector.options, self._whole, self._ctx)

    @cached_property
    def _cutter(self) -> Cutter:
        options = self._selector.options
        return Cutter(self._whole.channels, options if isinstance(options, SelectorOptions) else SelectorOptions())

    @cached_property
    def _scores(self) -> Mapping[str, Any]:
        options = self._selector.options
        name: Any = getattr(options, "criterion", "l1")
        combine: Any = getattr(options, "combine", "max")
        return scores(name, self._whole.program, self._here, self._cutter.groups, self._ctx, combine)


def _decided(decisions: Sequence[Decision], given: Sequence[GivenBack]) -> tuple[Decision, ...]:
    """The decisions with what was given back in the last one of each group."""
    found = list(decisions)
    for each in given:
        number = max((n for n, decision in enumerate(found) if decision.group == each.group), default=None)
        if number is not None:
            old = found[number]
            reason = f"{old.reason}; {each.before} -> {each.after} given back for {each.task!r}"
            found[number] = replace(old, kept=each.after, ratio=1 - each.after / old.width, reason=reason)
    return tuple(found)
