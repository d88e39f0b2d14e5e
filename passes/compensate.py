"""compensate: mean. What the readers of removed units get in their place, in the oracle and in what is emitted alike.

It is to help every task: where one's loss on the calibration set is higher with it than without, layers are no longer
compensated, that which harms most first, as long as this takes more off the losses, relative to the uncut network's,
than it adds to others, and the largest rise stays. That is found out on a cut of PROBE of every group before a search
asks anything, so that it measures what is emitted, and once more on the cut that was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pagcp_ir.channels import Keep
from pagcp_ir.compensate import Fold, compensated, folds, needed
from pagcp_ir.program import Program
from pagcp_ir.reads import Means, reads
from pagcp_ir.verify import require_exact
from pagcp_ir.verify_compensated import verify_compensated
from passes.criteria import scores
from passes.metric_oracle import measuring
from passes.ratios import Cutter
from passes.task_taylor import shared_means
from specs.options import SelectorOptions

if TYPE_CHECKING:
    from passes.base import Context, State

__all__ = ["Compensator", "compensator", "everywhere", "finished", "helpful"]

PROBE = 0.2
HARM = 1e-3
"""By how much more of its loss a task must be harmed for layers to be tried one by one: an evaluation each."""


@dataclass(frozen=True, eq=False)
class Compensator:
    """Compensates cuts of `program`; an oracle's Finish. `average` was measured on `program`."""

    program: Program
    found: tuple[Fold, ...]
    average: Means
    _known: dict[tuple[str, bytes], Tensor] = field(default_factory=dict, repr=False)
    _chosen: dict[tuple[str, bytes], Compensator] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        """What it does, to a program and calibration data that are known."""
        return "mean: " + " ".join(fold.tensor for fold in self.found)

    def __call__(self, cut: Program, keep: Keep) -> Program:
        """`cut`, which is `program` cut to `keep`, with its readers' biases changed."""
        active = self.active(keep)
        return compensated(cut, active, keep, {fold.tensor: self._needed(fold, keep) for fold in active})

    def active(self, keep: Keep) -> tuple[Fold, ...]:
        """The folds that have something to make up for under `keep`."""
        return tuple(fold for fold in self.found if fold.loses(keep))

    def without(self, *dropped: Fold) -> Compensator:
        """The same, but for these folds."""
        return replace(self, found=tuple(fold for fold in self.found if fold not in dropped))

    def _needed(self, fold: Fold, keep: Keep) -> Tensor:
        key = fold.tensor, np.concatenate([keep[read.units] for read in fold.reads]).tobytes()
        if key not in self._known:
            self._known[key] = needed(self.program, fold, self.average, keep)
        return self._known[key]


def compensator(options: Any, state: State, ctx: Context) -> Compensator | None:
    """What a selector with these options measures and emits cuts of `state` with; None: the cuts as they are.

    DataError D709 without an oracle.
    """
    if getattr(options, "compensate", "none") != "mean":
        return None
    whole, probe = everywhere(state, ctx), _probe(options, state, ctx)
    key = getattr(options, "measure", "loss"), probe.tobytes()
    if key not in whole._chosen:
        whole._chosen[key] = helpful(whole, state, probe, ctx)
    return whole._chosen[key]


def everywhere(state: State, ctx: Context) -> Compensator:
    """All folds of the state's program; its means are measured once.

    A layer gets a bias that it did not have only where no budget limits parameters.
    """
    grow = ctx.budgets.params is None and ctx.budgets.bytes is None
    program, here = state.program, state.here

    def look(tasks: Any, batches: Any) -> Compensator:
        found = reads(program, here)
        average = shared_means(program, found, batches)
        return Compensator(program, folds(program, found, grow), average)

    return ctx.need_oracle("compensate: mean").once("compensator", program, look)


def _probe(options: SelectorOptions, state: State, ctx: Context) -> Keep:
    """The keep-set with PROBE of what is left of every group cut by its scores."""
    cutter, keep = Cutter(state.channels, options), state.keep
    asked: Any = options
    by_group = scores(asked.criterion, state.program, state.here, cutter.groups, ctx, asked.combine)
    for group in cutter.groups:
        cut = 1 - float(keep[group.units].mean())
        keep = cutter.cut(keep, group, by_group[group.name], cut + PROBE * (1 - cut)).keep
    return keep


def finished(options: Any, state: State, keep: Keep, cut: Program, ctx: Context) -> Program:
    """`cut`, the program of `state` cut to `keep`, as it is emitted. VerifyError when the second step is wrong."""
    ctx = measuring(options, ctx)
    finish = compensator(options, state, ctx)
    if finish is None:
        return cut
    finish = helpful(finish, state, keep, ctx)
    program, active = finish(cut, keep), finish.active(keep)
    require_exact(verify_compensated(state.program, active, finish.average, keep, cut, program))
    ctx.note("compensated", layers=[fold.name for fold in active])
    return program


def helpful(finish: Compensator, state: State, keep: Keep, ctx: Context) -> Compensator:
    """`finish` without the folds that harm: see the head of this file. What goes is told in a warning."""
    trial = _Trial(finish, state, keep, ctx)
    while (harm := trial.harm(finish)) > HARM:
        fewer = {fold: finish.without(fold) for fold in finish.active(keep)}
        better = {fold: asked for fold, asked in fewer.items() if trial.better(asked, finish)}
        if better:
            gone = min(better, key=lambda fold: trial.harm(better[fold]))
            _warn(ctx, f"`{gone.name}` is not compensated: with it a task's loss is {harm:.2%} above that without any")
            finish = better[gone]
        elif trial.better(none := finish.without(*finish.found), finish):
            _warn(ctx, f"no layer is compensated: with that a task's loss is {harm:.2%} above that without")
            return none
        else:
            _warn(ctx, f"compensated, a task's loss is {harm:.2%} above that without; less of it costs others more")
            break
    return finish


@dataclass(frozen=True)
class _Trial:
    """What compensators do to the losses of one keep-set."""

    whole: Compensator
    state: State
    keep: Keep
    ctx: Context
    known: dict[tuple[str, ...], Mapping[str, float]] = field(default_factory=dict)

    def losses(self, asked: Compensator) -> Mapping[str, float]:
        """Each task's loss, relative to that of the network before the cut."""
        key = tuple(fold.tensor for fold in asked.active(self.keep))
        if key not in self.known:
            found = self._measured(self.keep, asked if key else None)
            base = self._measured(self.state.keep, None)
            self.known[key] = {task: loss / (abs(base[task]) or 1.0) for task, loss in found.items()}
        return self.known[key]

    def _measured(self, keep: Keep, asked: Compensator | None) -> Mapping[str, float]:
        oracle = self.ctx.need_oracle("compensate: mean")
        return oracle.losses(self.state.program, self.state.here, keep, asked)

    def harm(self, asked: Compensator) -> float:
        """By how much of it the loss of a task is at most higher than without any."""
        plain = self.losses(self.whole.without(*self.whole.found))
        return max(_above(loss, plain[task]) for task, loss in self.losses(asked).items())

    def better(self, fewer: Compensator, more: Compensator) -> bool:
        """Whether it harms less, no task rises above the one that has risen most, and all together do not rise."""
        new, old = self.losses(fewer).values(), self.losses(more).values()
        if not all(map(math.isfinite, old)):
            return self.harm(fewer) < math.inf
        return self.harm(fewer) < self.harm(more) and max(new) <= max(old) and math.fsum(new) < math.fsum(old)


def _warn(ctx: Context, message: str) -> None:
    ctx.note("warning", message=message)


def _above(loss: float, plain: float) -> float:
    """How much higher it is, relatively; infinite where it is not finite any more."""
    if not math.isfinite(loss):
        return math.inf if math.isfinite(plain) else 0.0
    return (loss - plain) / abs(plain) if plain else loss
