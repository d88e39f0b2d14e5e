"""finetune: train what is left on the weighted task losses.

loss = sum_t w_t * (L_t + distill * D_t), D_t measured against the ORIGINAL network's output: the KL divergence of the
softmax for cross_entropy tasks, else the mean squared error. The learning rate warms up linearly over the first
WARMUP of all steps, then follows a cosine to zero. The epoch that is best on validation is kept, epoch 0 being the
network as it came: fine-tuning never makes it worse there. Best is the largest worst margin to the guarantees, and
among equals, or without guarantees, the lowest weighted loss.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.nn import functional

from pagcp_ir.program import Program
from passes.base import Context, PassKind, State
from passes.data import Batch, Splits
from passes.measure import mean_losses, measure, worst_margin
from passes.seeding import borrowed_rng
from passes.tasks import Task, select, task_losses, weighted
from specs.diagnostics import PassError
from specs.options import FinetuneOptions

__all__ = ["Finetune", "rate"]

WARMUP = 0.05
"""Share of all steps over which the learning rate rises to its full value."""


@dataclass(frozen=True)
class Finetune:
    """The pass. PassError P407 for a loss that is not finite, naming epoch and batch, or nothing to train."""

    options: FinetuneOptions
    name: ClassVar[str] = "finetune"
    kind: ClassVar[PassKind] = "transformer"

    def run(self, state: State, ctx: Context) -> State:
        """Train a copy of the state's program."""
        data = ctx.need_data(self.name)
        program = replace(state.program, module=state.program.copy())
        judge = _Judge(ctx, data)
        kept, best = 0, judge.score(program)
        weights = copy.deepcopy(program.module.state_dict())
        with borrowed_rng(ctx.seed):
            trainer = _Trainer(self.options, program.module, ctx, data)
            stale = 0
            for epoch in range(1, self.options.epochs + 1):
                began = time.perf_counter()
                losses = trainer.epoch(epoch)
                score = judge.score(program)
                better = score > best
                if better:
                    kept, best, weights = epoch, score, copy.deepcopy(program.module.state_dict())
                stale = 0 if better else stale + 1
                seconds = round(time.perf_counter() - began, 3)
                ctx.note("epoch", epoch=epoch, losses=losses, score=score[0], best=better, seconds=seconds)
                if self.options.patience is not None and stale >= self.options.patience:
                    break
        ctx.note("kept", epoch=kept)
        program.module.load_state_dict(weights)
        program.module.zero_grad(set_to_none=True)
        program.module.eval()
        return replace(state, program=program)


def rate(step: int, steps: int) -> float:
    """The learning rate at `step` of `steps` (0-based) as a share of its full value."""
    warm = max(1, int(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class _Judge:
    """Scores a program on validation: the worst margin to the guarantees, then minus the weighted loss.

    A margin saturates, as that of an accuracy of 1 does: the loss tells apart what it cannot.
    """

    def __init__(self, ctx: Context, data: Splits) -> None:
        self._tasks, self._split = ctx.tasks, data["validation"]
        self._guaranteed = [task for task in ctx.tasks if task.guarantee is not None]
        self._dense: Mapping[str, float] = {}
        if self._guaranteed and ctx.original is not None:
            self._dense = measure(ctx.original, self._guaranteed, self._split)

    def score(self, program: Program) -> tuple[float, ...]:
        """Higher is better, the first number first; the module is in eval mode afterwards."""
        program.module.eval()
        found = [-float(weighted(self._tasks, mean_losses(program, self._tasks, self._split)))]
        if self._dense:
            margin = worst_margin(self._guaranteed, self._dense, measure(program, self._guaranteed, self._split))
            found = [margin, *found]
        return tuple(number if math.isfinite(number) else -math.inf for number in found)


class _Trainer:
    """Plain torch: one optimizer, one schedule over all epochs."""

    def __init__(self, options: FinetuneOptions, module: fx.GraphModule, ctx: Context, data: Splits) -> None:
        self._options, self._module, self._tasks = options, module, ctx.tasks
        self._train = data["train"]
        self._teacher = ctx.original.module if options.distill > 0 and ctx.original is not None else None
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise PassError.one("P407", "every parameter of the network is frozen: there is nothing to train")
        self._optimizer = _optimizer(options, parameters)
        self._step = 0

    def epoch(self, number: int) -> dict[str, float]:
        """Train one epoch; returns the mean training loss per task."""
        self._module.train()
        totals, samples = {task.name: 0.0 for task in self._tasks}, 0
        steps = self._options.epochs * self._batches
        for index, batch in enumerate(self._train.shuffled(number, self._options.batch_size)):
            losses = self._update(batch, steps, f"epoch {number}, batch {index}")
            for name, loss in losses.items():
                totals[name] += loss * batch.size
            samples += batch.size
        return {name: total / samples for name, total in totals.items()}

    @property
    def _batches(self) -> int:
        """Steps per epoch, for the schedule; it need not be exact for a source that does not know its length."""
        try:
            return max(1, len(self._train) // (self._options.batch_size or self._train.batch_size))
        except TypeError:
            return 1000

    def _update(self, batch: Batch, steps: int, place: str) -> dict[str, float]:
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.lr * rate(min(self._step, steps - 1), steps)
        self._optimizer.zero_grad(set_to_none=True)
        output = self._module(*batch.inputs)
        losses: Mapping[str, Any] = task_losses(self._tasks, output, batch.target)
        for name, loss in losses.items():
            if not bool(torch.isfinite(loss)):
                hint = "lower finetune.lr"
                raise PassError.one("P407", f"the loss of {name!r} is {float(loss.detach())} at {place}", hint=hint)
        total: Tensor = weighted(self._tasks, losses)
        if self._teacher is not None:
            with torch.no_grad():
                wanted = self._teacher(*batch.inputs)
            total = total + self._options.distill * weighted(self._tasks, _imitation(self._tasks, output, wanted))
        total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._step += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}


def _optimizer(options: FinetuneOptions, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Weights decay; biases, norms and slopes, which have one axis, do not."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=options.lr)


def _imitation(tasks: tuple[Task, ...], output: Any, wanted: Any) -> dict[str, Any]:
    """D_t of each task; 0 for a task whose output is not a tensor."""
    found: dict[str, Any] = {}
    for task in tasks:
        student, teacher = select(output, task.output), select(wanted, task.output)
        if not isinstance(student, Tensor) or not student.is_floating_point():
            found[task.name] = 0.0
        elif task.distill == "kl":
            # classes lie on axis 1, also for dense outputs [N, C, H, W]; the mean is over all positions
            log_p, log_q = functional.log_softmax(student, 1), functional.log_softmax(teacher, 1)
            found[task.name] = functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1).mean()
        else:
            found[task.name] = functional.mse_loss(student, teacher)
    return found
