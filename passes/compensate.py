"""compensate: mean. What the readers of removed units get in their place, in the oracle and in what is emitted alike.

It may only help: if some task's loss on the calibration set is higher with it than without, layers are compensated no
more, those that harm most first, until none is.
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
from pagcp_ir.reads import Means, means, reads
from pagcp_ir.verify import require_exact
from pagcp_ir.verify_compensated import verify_compensated

if TYPE_CHECKING:
    from passes.base import Context, State

__all__ = ["Compensator", "compensator", "finished", "helpful"]


@dataclass(frozen=True, eq=False)
class Compensator:
    """Compensates cuts of `program`; an oracle's Finish. `average` was measured on `program`."""

    program: Program
    found: tuple[Fold, ...]
    average: Means
    _known: dict[tuple[str, bytes], Tensor] = field(default_factory=dict, repr=False)

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

    A layer gets a bias that it did not have only where no budget limits parameters. DataError D709 without an oracle.
    """
    if getattr(options, "compensate", "none") != "mean":
        return None
    grow = ctx.budgets.params is None and ctx.budgets.bytes is None
    program = state.program

    def look(tasks: Any, batches: Any) -> Compensator:
        found = reads(program, state.here)
        average = means(program, found, (batch.inputs for batch in batches))
        return Compensator(program, folds(program, found, grow), average)

    return ctx.need_oracle("compensate: mean").once("compensator", program, look)


def finished(options: Any, state: State, keep: Keep, cut: Program, ctx: Context) -> Program:
    """`cut`, the program of `state` cut to `keep`, as it is emitted. VerifyError when the second step is wrong."""
    finish = compensator(options, state, ctx)
    if finish is None:
        return cut
    finish = helpful(finish, state, keep, ctx)
    program, active = finish(cut, keep), finish.active(keep)
    require_exact(verify_compensated(state.program, active, finish.average, keep, cut, program))
    ctx.note("compensated", layers=[fold.name for fold in active])
    return program


def helpful(finish: Compensator, state: State, keep: Keep, ctx: Context) -> Compensator:
    """`finish` without the folds that must go so that no task's loss is higher than without compensation.

    A search has measured all folds: what the network that is left loses by the others' absence is told in a warning.
    """
    oracle = ctx.need_oracle("compensate: mean")
    here = state.here

    def losses(asked: Compensator) -> Mapping[str, float]:
        return oracle.losses(state.program, here, keep, asked if asked.active(keep) else None)

    plain = losses(finish.without(*finish.found))

    def harm(asked: Compensator) -> float:
        found = losses(asked)
        return max(_harm(found[task], plain[task]) for task in plain)

    measured, whole = losses(finish), harm(finish)
    if whole <= 0:
        return finish
    alone = {fold: harm(finish.without(fold)) for fold in finish.active(keep)}
    for fold in sorted(alone, key=lambda fold: alone[fold]):
        finish = finish.without(fold)
        ctx.note("warning", message=f"`{fold.name}` is not compensated: a task's loss was {whole:.2%} higher with it")
        whole = harm(finish)
        if whole <= 0:
            break
    for task, loss in losses(finish).items():
        if loss > measured[task]:
            ctx.note("warning", message=f"so the loss of {task!r} is {loss:.4g}, not {measured[task]:.4g} as measured")
    return finish


def _harm(loss: float, plain: float) -> float:
    """How much higher a task's loss is with compensation, relative; infinite where it is not finite any more."""
    if not math.isfinite(loss):
        return math.inf if math.isfinite(plain) else 0.0
    return (loss - plain) / abs(plain) if plain else loss
