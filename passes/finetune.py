"""finetune: train what is left on the weighted task losses, and keep the epoch that is best on validation.

Epoch 0 is the network as it came: fine-tuning never makes it worse there. With `trainer` the user's own code trains
the user's own module instead, cut in place (own_trainer.py).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from pagcp_ir.program import Program
from passes.balance import balanced
from passes.base import Context, PassKind, State
from passes.judge import Judge, Score
from passes.own_trainer import trained_by_user
from passes.processes import is_main
from passes.training import Trainer
from specs.diagnostics import PassError
from specs.options import FinetuneOptions

__all__ = ["Course", "Finetune"]


@dataclass(frozen=True)
class Finetune:
    """The pass. PassError P407 for a loss that is not finite, naming epoch and batch, or nothing to train."""

    options: FinetuneOptions
    name: ClassVar[str] = "finetune"
    kind: ClassVar[PassKind] = "transformer"

    def run(self, state: State, ctx: Context) -> State:
        """Train a copy of the state's program; after a kill, go on after the last epoch that was saved."""
        saved = ctx.checkpoint.load()
        if not is_main():  # one process trains, and the runner hands on what it made
            return state
        if self.options.trainer is not None:
            return replace(state, program=trained_by_user(self.options.trainer, state, ctx))
        course = Course(self.options, state.program, ctx)
        if saved is not None:
            course.load(saved)
        for told in course.told:
            ctx.note("epoch", **told)
        while not course.done:
            ctx.note("epoch", **course.epoch())
            ctx.checkpoint.save(course.state())
        ctx.note("kept", epoch=course.kept)
        return replace(state, program=course.result())


class Course:
    """A fine-tuning between two epochs: what is trained, and what was best so far. `told`: what each epoch gave."""

    def __init__(self, options: FinetuneOptions, program: Program, ctx: Context) -> None:
        """PassError P409 when margins are asked for and no task has a guarantee."""
        if options.balance == "margin" and not any(task.guarantee is not None for task in ctx.tasks):
            hint = "give a task a guarantee, or leave out balance"
            raise PassError.one("P409", "finetune.balance: margin needs a guarantee to have a margin to", hint=hint)
        self._options, self._ctx, self._program = options, ctx, program
        self._trainer = Trainer(options, program.copy(), ctx)
        self._judge = Judge(ctx, self._trainer.device)
        self._best = self._judged()
        self._weights = self._tensors()
        self.told: list[dict[str, Any]] = []
        self.kept, self._stale = 0, 0
        self._rebalance(self._best)

    @property
    def done(self) -> bool:
        """Whether all epochs are over, or patience is."""
        patience = self._options.patience
        return len(self.told) >= self._options.epochs or (patience is not None and self._stale >= patience)

    def epoch(self) -> dict[str, Any]:
        """Train and judge one more; returns what the journal is to say of it."""
        began, number = time.perf_counter(), len(self.told) + 1
        weights = {task.name: task.weight for task in self._trainer.tasks}
        losses = self._trainer.epoch(number)
        score = self._judged()
        better = score > self._best
        if better:
            self.kept, self._best, self._weights = number, score, self._tensors()
        self._stale = 0 if better else self._stale + 1
        self._rebalance(score)
        told = {"epoch": number, "losses": losses, "score": score.key[0], "best": better}
        if self._options.balance == "margin":
            told["weights"] = weights
        self.told.append({**told, "seconds": round(time.perf_counter() - began, 3)})
        return self.told[-1]

    def result(self) -> Program:
        """The program with the best weights, in eval mode, where the one that was given lies."""
        module = self._program.copy()
        module.load_state_dict(self._weights)
        return replace(self._program, module=module.eval())

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on after the epochs so far."""
        best = {"key": self._best.key, "margins": dict(self._best.margins), "tensors": self._weights}
        weights = [task.weight for task in self._trainer.tasks]
        counts = {"told": self.told, "kept": self.kept, "stale": self._stale}
        return {**counts, "best": best, "weights": weights, "trainer": self._trainer.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from there; options, program and data must be the same."""
        self.told, self.kept, self._stale = list(state["told"]), state["kept"], state["stale"]
        self._best = Score(tuple(state["best"]["key"]), state["best"]["margins"])
        self._weights = state["best"]["tensors"]
        pairs = zip(self._trainer.tasks, state["weights"], strict=True)
        self._trainer.tasks = tuple(replace(task, weight=weight) for task, weight in pairs)
        self._trainer.load(state["trainer"])

    def _judged(self) -> Score:
        return self._judge.score(replace(self._program, module=self._trainer.result))

    def _tensors(self) -> dict[str, Tensor]:
        return copy.deepcopy(self._trainer.result.state_dict())

    def _rebalance(self, score: Score) -> None:
        if self._options.balance == "margin":
            self._trainer.tasks = balanced(self._ctx.tasks, score.margins)
