"""uniform: every group cut by the same ratio of its width, its lowest scores first. The baseline.

Without a ratio: the smallest one that meets the budgets. Costs only fall as the ratio grows, and change only where
some floor(ratio * width) does, so that bisection over these places finds it exactly. The latency mostly falls: of it, a
ratio is found that meets the budget as measured.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.cost import costs
from pagcp_ir.planning import make_plan
from passes.base import Context, PassKind, State, meets
from passes.criteria import scores
from passes.latency import Latency
from passes.ratios import Cutter, Scores
from specs.diagnostics import Diagnostic, PassError
from specs.options import UniformOptions
from specs.plan import Decision

__all__ = ["Uniform", "refuse_uncut", "smallest_ratio"]

Allscores = Mapping[str, Scores | None]


@dataclass(frozen=True)
class Uniform:
    """The pass. PassError P406 when it cuts nothing, P401 when no ratio meets the budgets, P409 without both."""

    options: UniformOptions
    name: ClassVar[str] = "uniform"
    kind: ClassVar[PassKind] = "selector"

    def run(self, state: State, ctx: Context) -> State:
        """Cut `state` further; ratios are over the original widths."""
        began = time.perf_counter()
        cutter = Cutter(state.channels, self.options)
        by_group = scores(self.options.criterion, state.program, state.here, cutter.groups, ctx, self.options.combine)
        limits = ctx.budgets.limits(costs(state.channels))
        ratio, latency = self.options.ratio, ctx.timing(state)
        if ratio is None:
            if not (limits or latency.limited):
                raise PassError.one("P409", "uniform has neither a ratio nor budgets to find one for")
            ratio = smallest_ratio(cutter, state.keep, by_group, limits, latency)
            while not latency.confirmed(_cut_all(cutter, state.keep, by_group, ratio)[0]):
                ratio = smallest_ratio(cutter, state.keep, by_group, limits, latency)
        keep, notes = _cut_all(cutter, state.keep, by_group, ratio)
        decisions = _decisions(state.channels, cutter, keep, ratio, notes, time.perf_counter() - began)
        refuse_uncut("uniform", state.channels, keep, decisions)
        plan = make_plan(ctx.original or state.program, state.channels, keep)
        return replace(state, plan=plan, decisions=(*state.decisions, *decisions))


def smallest_ratio(
    cutter: Cutter, keep: Keep, by_group: Allscores, limits: Mapping[str, int], latency: Latency | None = None
) -> float:
    """The smallest ratio under which every cost, and the latency's estimate, is within its limit.

    PassError P401 when there is none, P413 where it is the latency's.
    """
    places = sorted({k / g.units.size for g in cutter.groups for k in range(g.units.size + 1)})

    def within(ratio: float) -> bool:
        cut = _cut_all(cutter, keep, by_group, ratio)[0]
        return meets(costs(cutter.channels, cut), limits) and (latency is None or latency.within(cut))

    at = bisect_left(places, True, key=within)
    if at == len(places):
        if latency is not None:
            latency.refuse()
        raise PassError.one("P401", "no ratio that uniform may use meets the budgets")
    return places[at]


def refuse_uncut(name: str, channels: ChannelGraph, keep: Keep, decisions: tuple[Decision, ...]) -> None:
    """PassError P406 with the reason of each group when `keep` is the whole network."""
    if not bool(keep.all()):
        return
    found = [Diagnostic("P406", f"{name} cut nothing")]
    for decision in decisions:
        where = channels.group(decision.group).where
        found.append(Diagnostic("P406", f"group `{decision.group}`: {decision.reason}", where))
    raise PassError(found)


def _cut_all(cutter: Cutter, keep: Keep, by_group: Allscores, ratio: float) -> tuple[Keep, dict[str, str]]:
    notes = {}
    for group in cutter.groups:
        trim = cutter.cut(keep, group, by_group[group.name], ratio)
        keep, notes[group.name] = trim.keep, trim.note
    return keep, notes


def _decisions(
    channels: ChannelGraph, cutter: Cutter, keep: Keep, ratio: float, notes: Mapping[str, str], seconds: float
) -> tuple[Decision, ...]:
    """uniform asks no task: there are no losses, no margin, and nobody stops a group."""
    return tuple(
        Decision(
            group=group.name,
            width=group.units.size,
            kept=int(keep[group.units].sum()),
            stopped_by=None,
            ratio=ratio,
            losses={},
            margin=0.0,
            reason=notes[group.name] or _told(group.units.size, int(keep[group.units].sum()), ratio),
            seconds=seconds / len(cutter.groups),
        )
        for group in cutter.groups
    )


def _told(width: int, kept: int, ratio: float) -> str:
    if kept == width:
        return f"the ratio {ratio:.3g} removes none of its {width} channels"
    return f"cut by the ratio {ratio:.3g}"
