"""The pass contract and its runner.

Selectors only extend the plan; transformers only replace the program. The runner checks which of the two changed,
cuts and verifies the network after every selector, times and journals: so no pass does any of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.compensate import described
from pagcp_ir.cost import costs
from pagcp_ir.planning import fingerprint, keep_of, legal, require_free_units
from pagcp_ir.program import Program
from pagcp_ir.rewrite import materialise
from pagcp_ir.verify import require_exact, verify
from passes.callables import UserCode
from passes.compensate import finished
from passes.data import CPU, Splits
from passes.journal import Journal, Kind
from passes.latency import Latency
from passes.oracle import Oracle
from passes.processes import broadcast_object, world
from passes.ratios import least
from passes.resume import Checkpoint, Checkpoints
from passes.tasks import Task
from specs.diagnostics import DataError, PassError
from specs.options import SelectorOptions
from specs.plan import Costs, Decision, Plan
from specs.search import SearchRecord
from specs.spec import Budgets

__all__ = [
    "Context",
    "ContractError",
    "Pass",
    "PassKind",
    "Progress",
    "Rounds",
    "State",
    "cut_to",
    "flat",
    "meets",
    "refuse_infeasible",
    "run_passes",
]

PassKind = Literal["selector", "transformer", "rounds"]
Progress = Callable[[str, Mapping[str, Any]], None]
"""Told of every journal record as it is written: its kind and its fields."""


@dataclass(frozen=True, eq=False)
class State:
    """Where a pipeline stands. `program` is cut to `plan`; `channels` describe the ORIGINAL program throughout.

    `uncut`: the program as the first selector got it; `pruned`: as the last one left it, before it was recovered.
    """

    program: Program
    channels: ChannelGraph
    plan: Plan
    decisions: tuple[Decision, ...] = ()
    searches: tuple[SearchRecord, ...] = ()
    uncut: Program | None = None
    pruned: Program | None = None

    @property
    def keep(self) -> Keep:
        """The plan's keep-set over the original units."""
        return keep_of(self.channels, self.plan)

    @property
    def here(self) -> ChannelGraph:
        """The graph of `program` as it is now: cut, and with the biases that compensation made."""
        return described(self.program, self.channels.restrict(self.keep))


def _silent(kind: str, fields: Mapping[str, Any]) -> None:
    return None


@dataclass(frozen=True, eq=False)
class Context:
    """What passes may touch besides the state. `original`: the uncut program, set by the runner.

    `checkpoint`: where the transformer that runs may keep its state, to go on with it after a kill; set by the runner.
    """

    budgets: Budgets
    seed: int = 0
    device: torch.device = CPU
    oracle: Oracle | None = None
    data: Splits | None = None
    tasks: tuple[Task, ...] = ()
    journal: Journal = field(default_factory=Journal)
    progress: Progress = _silent
    original: Program | None = None
    code: UserCode = field(default_factory=UserCode)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    latency: Latency | None = None

    def timing(self, state: State) -> Latency:
        """What keep-sets of the state's network take: one for the whole run, which remembers what it measured."""
        if self.latency is not None:
            return self.latency
        original = self.original or state.program
        return Latency(self.budgets.latency, original, state.channels, self.journal, self.code.folder)

    def note(self, kind: Kind, **fields: Any) -> None:
        """Write one record to the journal and tell the progress display of it."""
        self.journal.write(kind, **fields)
        self.progress(kind, fields)

    def once(self, what: str, program: Program, find: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Numbers by name that `find` measures of the program; they are read back after a kill."""
        name = f"{what} {fingerprint(program)}" if self.journal.kept else ""

        def look() -> Mapping[str, float]:
            if (known := self.journal.recall(name)) is not None:
                return {key: float(number) for key, number in known.fields["numbers"].items()}
            found = find()
            self.journal.remember(name, {"numbers": dict(found)})
            return found

        return broadcast_object(what, look)

    def need_oracle(self, name: str) -> Oracle:
        """The oracle. DataError D709 when there are no tasks or data for one, or no calibration split."""
        if self.oracle is None:
            if self.tasks and self.data is not None:
                self.data["calibration"]  # says what the factory returned instead
            raise DataError.one("D709", f"{name} measures the tasks' losses: the spec needs tasks and data")
        return self.oracle

    def need_data(self, name: str) -> Splits:
        """The data. DataError D709 when the spec gives none."""
        if self.data is None:
            raise DataError.one("D709", f"{name} needs the spec's data")
        return self.data


class Pass(Protocol):
    """A frozen dataclass with its options as its field."""

    name: ClassVar[str]
    kind: ClassVar[PassKind]

    @property
    def options(self) -> Any:
        """The options: a model of specs/options.py."""

    def run(self, state: State, ctx: Context) -> State:
        """Selectors: `state` with a smaller plan and more decisions. Transformers: with another program."""


@runtime_checkable
class Rounds(Pass, Protocol):
    """A pass that runs others, by `run_passes`."""

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes of a round."""


class ContractError(RuntimeError):
    """A pass changed what it may not change: a bug in the pass, never the user's mistake."""


def run_passes(passes: Sequence[Pass], state: State, ctx: Context) -> State:
    """Run the passes in order.

    Raises, before any evaluation, GraphError G301 when all is pinned and PassError P401 for budgets out of reach;
    VerifyError when a cut network does not equal its plan; ContractError for a pass that breaks its contract.
    Budgets unmet at the end are left to the caller to report.
    """
    if any(step.kind == "selector" for step in flat(passes)):
        require_free_units(state.channels)
    if ctx.original is None:
        ctx = replace(ctx, original=state.program)
    ctx = replace(ctx, latency=ctx.timing(state))
    refuse_infeasible(passes, state, ctx.budgets, ctx.latency)
    for number, step in enumerate(passes):
        ctx.note("pass_start", name=step.name, number=number)
        began = time.perf_counter()
        if step.kind == "rounds":  # each of its passes was checked
            state = step.run(state, ctx)
        elif step.kind == "selector":
            state = cut_to(step, state, step.run(state, ctx), ctx)
        else:
            state = _transformed(step, state, ctx)
        ctx.note(
            "pass_end",
            name=step.name,
            number=number,
            macs=state.plan.after.macs,
            params=state.plan.after.params,
            seconds=round(time.perf_counter() - began, 3),
        )
    return state


def flat(passes: Iterable[Pass]) -> tuple[Pass, ...]:
    """The selectors and transformers, those in rounds too."""
    return tuple(one for step in passes for one in (flat(step.passes) if isinstance(step, Rounds) else (step,)))


def meets(after: Costs, limits: Mapping[str, int]) -> bool:
    """Whether every cost is within its limit; True when there are no limits."""
    return all(getattr(after, name) <= limit for name, limit in limits.items())


def refuse_infeasible(passes: Sequence[Pass], state: State, budgets: Budgets, latency: Latency | None = None) -> None:
    """PassError P401 with the least reachable value when no allowed cut of these passes meets the budgets.

    P413 with what was measured of the deepest cut when that does not meet the latency's.
    """
    before = costs(state.channels)
    limits = budgets.limits(before)
    options = [p.options for p in flat(passes) if p.kind == "selector" and isinstance(p.options, SelectorOptions)]
    if not (limits or budgets.latency) or not options:
        return
    keep = state.keep
    for each in options:
        keep = least(state.channels, keep, each)
    reachable = costs(state.channels, keep)
    if meets(reachable, limits):
        if latency is not None and not latency.confirmed(keep):
            latency.refuse()
        return
    missed = []
    for name, limit in limits.items():
        low, whole = getattr(reachable, name), getattr(before, name)
        if low > limit:
            missed.append(f"{name} {limit:,} ({limit / whole:.1%}), least reachable {low:,} ({low / whole:.1%})")
    hint = "protect less, raise max_ratio, lower min_channels, or ask for less; `pagcp inspect` lists what is pinned"
    raise PassError.one("P401", "the budgets are out of reach: " + "; ".join(missed), hint=hint)


def cut_to(step: Pass, before: State, after: State, ctx: Context) -> State:
    """Check that only the plan grew, cut the program to it, and verify the result."""
    if after.program is not before.program or after.channels is not before.channels:
        raise ContractError(f"the selector {step.name!r} changed the program")
    kept = after.decisions[: len(before.decisions)], after.searches[: len(before.searches)]
    if kept != (before.decisions, before.searches):
        raise ContractError(f"the selector {step.name!r} changed earlier decisions")
    old, new = before.keep, after.keep
    if bool((new & ~old).any()):
        raise ContractError(f"the selector {step.name!r} took back earlier cuts")
    if bool((~new & ~before.channels.free).any()) or not legal(before.channels, new):
        raise ContractError(f"the selector {step.name!r} made a plan that is not legal")
    if np.array_equal(old, new):  # and the costs of what is there, with the biases that compensation made
        return replace(after, plan=before.plan)
    here = before.here
    program = materialise(before.program, here, new)
    require_exact(verify(before.program, here, new, program))
    program = finished(step.options, before, new, program, ctx)
    spent = costs(described(program, before.channels.restrict(new)))
    uncut = before.uncut or before.program
    return replace(after, program=program, plan=replace(after.plan, after=spent), uncut=uncut, pruned=program)


def _transformed(step: Pass, before: State, ctx: Context) -> State:
    """What the transformer makes of the state; what it made before the run was killed is taken up."""
    place = ctx.checkpoints.next(step.name)
    program = place.made(before.program)
    if program is not None:
        ctx.journal.skip("pass_end")
        return replace(before, program=program)
    after = step.run(before, replace(ctx, checkpoint=place.running))
    _check_transformer(step, before, after)
    after = replace(after, program=_alike(step.name, after.program))
    place.finish(before.program, after.program)
    return after


def _alike(name: str, program: Program) -> Program:
    """The program with the first process's tensors, in all processes: one of them may have trained for all."""
    if world().size == 1:
        return program
    tensors = broadcast_object(f"the tensors after {name}", program.tensors)
    found = replace(program, module=program.copy())
    with torch.no_grad():
        for key, tensor in found.tensors().items():
            tensor.copy_(tensors[key])
    return found


def _check_transformer(step: Pass, before: State, after: State) -> None:
    same = all(getattr(after, name) is getattr(before, name) for name in ("plan", "channels", "decisions", "searches"))
    if not same:
        raise ContractError(f"the transformer {step.name!r} changed the plan")
    shapes = [{n: tuple(t.shape) for n, t in s.program.tensors().items()} for s in (before, after)]
    if shapes[0] != shapes[1]:
        raise ContractError(f"the transformer {step.name!r} changed the shape of a tensor")
