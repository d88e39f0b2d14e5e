"""pagcp: cut group by group, as deep as every single task tolerates (arXiv 2303.11923).

The searches are pure functions over a Space; this is the Space of a real network and the pass around it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar, TypeVar

import numpy as np

from pagcp_ir.channels import Keep, Units
from pagcp_ir.planning import make_plan
from pagcp_ir.program import Program
from pagcp_ir.rewrite import materialise
from passes.appraise import RacingAppraiser
from passes.base import Context, PassKind, State
from passes.certified import Judge, Scout, certified
from passes.compensate import Compensator, compensator
from passes.criteria import scores
from passes.marginal import marginal
from passes.memorised import warn_memorised
from passes.metric_oracle import measuring, refuse_useless
from passes.oracle import Samples
from passes.published import published
from passes.racing import RacingRule, Sampled
from passes.ratios import Cutter, Scores, Trim
from passes.saving import Saving
from passes.schedule import growth, least_growth, total_of
from passes.sequential import ordered
from passes.space import Evaluation, Outcome
from passes.uniform import refuse_uncut
from specs.options import MEASURED_CRITERIA, PagcpOptions

__all__ = ["NetworkSpace", "Pagcp"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pagcp:
    """The pass. DataError D709 without tasks and data, PassError P404, P406 (every group refused its first cut)."""

    options: PagcpOptions
    name: ClassVar[str] = "pagcp"
    kind: ClassVar[PassKind] = "selector"

    def run(self, state: State, ctx: Context) -> State:
        """Search from `state` on; ratios are over the original widths."""
        ctx.need_oracle(self.name)
        ctx, began = measuring(self.options, ctx), time.perf_counter()
        oracle = ctx.need_oracle(self.name)
        before = oracle.usage
        oracle.reuse(self.options.cache_mb, self.options.channels_last)
        space = NetworkSpace(state, ctx, self.options)
        _announce(space, self.options)
        if self.options.confidence is not None:
            space.samples(space.start, 1)  # from here on batches come in a random order
        base = space.losses(space.start)
        if self.options.measure == "metric":
            refuse_useless(base)
        else:
            warn_memorised(base, state.program, ctx)
        outcome = search(space, self.options, space.scouts)
        while space.met(outcome.keep) and not space.confirmed(outcome.keep):  # the marginal search goes on by itself
            outcome = search(space, self.options, space.scouts)
        oracle.reuse(0)
        if self.options.stop == "budget" and self.options.total == "auto" and not space.confirmed(outcome.keep):
            ctx.timing(state).refuse()
        refuse_uncut(self.name, state.channels, outcome.keep, outcome.decisions)
        plan = make_plan(ctx.original or state.program, state.channels, outcome.keep)
        record = replace(
            outcome.record,
            measure=self.options.measure,
            evaluations=oracle.usage.evaluations - before.evaluations,
            samples=oracle.usage.images - before.images,
            seconds=time.perf_counter() - began,
            closest=space.closest if math.isfinite(space.closest) else None,
        )
        decisions, searches = (*state.decisions, *outcome.decisions), (*state.searches, record)
        return replace(state, plan=plan, decisions=decisions, searches=searches)


def _announce(space: NetworkSpace, options: PagcpOptions) -> None:
    """Tell the oracle which group is searched first, before it measures the network as it is."""
    if options.search != "marginal":
        n = len(space.groups)
        factor = 1.0 if options.total == "auto" else growth(options.tolerance, options.total, n)
        space.ahead(next(iter(ordered(space, options.probe, factor)), None))


def search(space: Sampled, options: PagcpOptions, scouts: Sequence[Scout] = ()) -> Outcome:
    """The search that the options ask for. `scouts`: where to find losses on parts of the calibration set."""
    n = len(space.groups)
    racing = None
    if options.confidence is not None:
        racing = RacingRule(space, options.confidence, n * len(options.grid), floors=options.floors(space.weights))
    if options.search == "marginal":
        return marginal(space, options, None if racing is None else RacingAppraiser(space, racing.alpha))

    def run(factor: float) -> Outcome:
        if options.search == "published":
            return published(space, options, factor)
        if racing is None:
            return certified(space, options, factor, Judge(scouts=scouts))
        racing.searches += 1
        return certified(space, options, factor, Judge(racing, racing.longer()))

    if options.total != "auto":
        return run(growth(options.tolerance, options.total, n))
    least, outcome = least_growth(run, lambda outcome: space.met(outcome.keep), options.tolerance, n)
    record = replace(outcome.record, growth=least, total=total_of(options.tolerance, least, n))
    return replace(outcome, record=record)


class NetworkSpace:
    """What the searches ask of a real network.

    Scores by weights are those of the network as it is cut at that point, measured ones those of the network given.
    """

    def __init__(self, state: State, ctx: Context, options: PagcpOptions) -> None:
        self._state, self._ctx, self._options = state, ctx, options
        self._oracle = ctx.need_oracle("pagcp")
        self._cutter = Cutter(state.channels, options)
        self._by_name = {group.name: group for group in self._cutter.groups}
        self._here, self._finish = state.here, compensator(options, state, ctx)
        latency, by_time = ctx.timing(state), options.order == "latency"
        self._saving = Saving(state.channels, self.start, ctx.budgets, latency, by_time)
        self._scores: dict[tuple[bytes, str], Scores | None] = {}
        self._last: tuple[bytes, Program] | None = None
        self._warned: set[tuple[str, bytes]] = set()
        self.closest = math.inf
        """How close the closest decision was."""

    @cached_property
    def start(self) -> Keep:
        """The plan's keep-set so far."""
        return self._state.keep

    @property
    def groups(self) -> Sequence[str]:
        """Names of the groups that may be cut."""
        return tuple(self._by_name)

    @property
    def weights(self) -> Mapping[str, float]:
        """The tasks' weights."""
        return {task.name: task.weight for task in self._ctx.tasks}

    def units(self, group: str) -> Units:
        """The group's units."""
        return self._by_name[group].units

    def cut(self, keep: Keep, group: str, ratio: float) -> Trim:
        """Cut the group by its scores under `keep`."""
        return self._cutter.cut(keep, self._by_name[group], self._scored(keep, group), ratio)

    def cost(self, keep: Keep) -> float:
        """MACs of one sample, or milliseconds where the order is by latency."""
        return self._saving.cost(keep)

    def saved(self, before: Keep, after: Keep) -> float:
        """Of every budget that is not met at `before` (saving.py)."""
        return self._saving.saved(before, after)

    @property
    def to_save(self) -> float:
        """The share of the start's MACs that the tightest budget asks to save of what it limits."""
        return self._saving.to_save

    def met(self, keep: Keep) -> bool:
        """Whether there are budgets and they are met, the latency's by its estimate."""
        return self._saving.met(keep)

    def confirmed(self, keep: Keep) -> bool:
        """Whether the latency's budget, if there is one, is met as measured."""
        return self._saving.confirmed(keep)

    def losses(self, keep: Keep) -> Mapping[str, float]:
        """The oracle's answer, from the program as the pass got it."""
        return self._heard(keep, self._oracle.losses(self._state.program, self._here, keep, self._finishing(keep)))

    @cached_property
    def scouts(self) -> tuple[Scout, ...]:
        """Losses on parts of the calibration set, larger and larger ones, where the first is much cheaper than all."""
        return tuple(partial(self._glimpse, batches) for batches in self._oracle.parts)

    def _glimpse(self, batches: int, keep: Keep) -> Mapping[str, float]:
        return self._oracle.glimpse(self._state.program, self._here, keep, batches, self._finishing(keep))

    def ahead(self, group: str | None) -> None:
        """Tell the oracle from where on the next group's cuts change the network."""
        units = self.units(group) if group is not None else ()
        values = self._here.values
        made = (node.name for node in self._state.program.module.graph.nodes if node.op.startswith("call_"))
        self._oracle.ahead(next((n for n in made if n in values and bool(np.isin(values[n].units, units).any())), None))

    @property
    def batches(self) -> int:
        """How many batches the calibration set has."""
        return self._oracle.batches

    def samples(self, keep: Keep, batches: int) -> Samples:
        """The oracle's answer from the first batches."""
        finish = self._finishing(keep)
        return self._heard(keep, self._oracle.samples(self._state.program, self._here, keep, batches, finish))

    def _finishing(self, keep: Keep) -> Compensator | None:
        """What is done to the network that was cut to `keep`; None where that is nothing, as before any cut."""
        return self._finish if self._finish is not None and self._finish.active(keep) else None

    def _heard(self, keep: Keep, answer: _T) -> _T:
        """Warn, once, of a loss that is not finite, with the batch."""
        for task, batch in self._oracle.unfit(keep, self._finishing(keep)).items():
            if (task, keep.tobytes()) not in self._warned:
                self._warned.add((task, keep.tobytes()))
                message = f"the loss of {task!r} is not finite on calibration batch {batch} {self._told(keep)}"
                self._ctx.note("warning", message=message)
        return answer

    def _told(self, keep: Keep) -> str:
        cuts = ((name, int((~keep[g.units]).sum()), g.units.size) for name, g in self._by_name.items())
        told = ", ".join(f"{cut} of {width} of {name}" for name, cut, width in cuts if cut)
        return f"with {told} cut" if told else "before anything is cut"

    def note(self, evaluation: Evaluation) -> None:
        """Journal it."""
        self._ctx.note(
            "evaluation",
            group=evaluation.group,
            ratio=evaluation.ratio,
            losses=dict(evaluation.losses),
            task=evaluation.task,
            rise=evaluation.rise,
            verdict=evaluation.verdict,
            seconds=round(evaluation.seconds, 4),
            **({} if evaluation.samples is None else {"samples": evaluation.samples}),
        )

    def close(self, margin: float) -> None:
        """Keep the smallest."""
        self.closest = min(self.closest, margin)

    def _scored(self, keep: Keep, group: str) -> Scores | None:
        name, combine = self._options.criterion, self._options.combine
        if name in MEASURED_CRITERIA:  # a pass over the data for every cut would cost as much as the search
            keep = self.start
        key = (keep.tobytes(), group)
        if key not in self._scores:
            here = self._here.restrict(keep)
            found = scores(name, self._program(keep), here, [self._by_name[group]], self._ctx, combine)
            self._scores[key] = found[group]
        return self._scores[key]

    def _program(self, keep: Keep) -> Program:
        """The program cut to `keep`; the last one is remembered, since a group asks for it at every ratio."""
        if bool((keep == self.start).all()):
            return self._state.program
        key = keep.tobytes()
        if self._last is None or self._last[0] != key:
            self._last = key, materialise(self._state.program, self._here, keep)
        return self._last[1]
