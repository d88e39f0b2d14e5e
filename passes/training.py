"""One epoch after the other: loss = sum_t w_t (L_t + distill D_t), a step of the optimizer per batch.

D_t is measured against the ORIGINAL network's output: the KL divergence of the softmax for cross_entropy tasks, else
the mean squared error. The learning rate warms up linearly over the first WARMUP of all steps, then follows a cosine to
zero. What is random in an epoch depends on the seed and its number alone, so that a run can go on where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from passes.accelerated import accelerator, widened
from passes.base import Context
from passes.data import Batch
from passes.ema import Ema
from passes.feeding import feeding
from passes.seeding import borrowed_rng
from passes.tasks import NOT_FINITE, Task, TaskLoss, batch_losses, holds_nan, select, weighted
from specs.diagnostics import PassError
from specs.options import FinetuneOptions

__all__ = ["Trainer", "rate"]

WARMUP = 0.05
"""Share of all steps over which the learning rate rises to its full value."""


def rate(step: int, steps: int) -> float:
    """The learning rate at `step` of `steps` (0-based) as a share of its full value."""
    warm = max(1, int(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Trainer:
    """Trains `module` in place, on the accelerator's device; `result` is what is judged and kept.

    `tasks` may be replaced between epochs by the same ones with other weights.
    """

    def __init__(self, options: FinetuneOptions, module: fx.GraphModule, ctx: Context) -> None:
        """PassError P407 when nothing is to be trained, P410 where device or precision are not there."""
        self._options, self._seed, self.tasks = options, ctx.seed, ctx.tasks
        self._accelerator = accelerator(options, ctx.device)
        self.device = self._accelerator.device
        self._module = module.to(self.device)
        self._train = replace(ctx.need_data("finetune")["train"], device=self.device)
        self._teacher: fx.GraphModule | None = None
        if options.distill > 0 and ctx.original is not None:
            self._teacher = ctx.original.copy().to(self.device)
        parameters = [p for p in self._module.parameters() if p.requires_grad]
        if not parameters:
            raise PassError.one("P407", "every parameter of the network is frozen: there is nothing to train")
        self._parameters = parameters
        self._optimizer: Any = self._accelerator.prepare_optimizer(_optimizer(options, parameters))
        self._ema = None if options.ema is None else Ema(self._module, options.ema)
        self._step = 0

    @property
    def result(self) -> fx.GraphModule:
        """The network as it is now, or its moving average."""
        return self._module if self._ema is None else self._ema.module

    def epoch(self, number: int) -> dict[str, float]:
        """Train epoch `number` (from 1); returns the mean training loss per task. PassError P407: not finite."""
        self._module.train()
        totals, samples = dict[str, float](), dict[str, int]()
        steps = self._options.epochs * self._batches
        with borrowed_rng(self._seed * 1_000_003 + number):
            for index, batch in enumerate(self._train.shuffled(number, self._options.batch_size)):
                losses = self._update(batch, steps, f"epoch {number}, batch {index}")
                for name, loss in losses.items():
                    count = loss.of(batch.size)
                    totals[name] = totals.get(name, 0.0) + float(loss.value.detach()) * count
                    samples[name] = samples.get(name, 0) + count
        return {task.name: totals[task.name] / samples[task.name] for task in self.tasks if task.name in totals}

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on after the epochs so far, given the same options and data."""
        scaler, ema = self._accelerator.scaler, self._ema
        return {
            "step": self._step,
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "ema": None if ema is None else ema.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._step = state["step"]
        self._module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        if self._ema is not None:
            self._ema.load(state["ema"])

    @property
    def _batches(self) -> int:
        """Steps per epoch, for the schedule; it need not be exact for a source that does not know its length."""
        try:
            return max(1, len(self._train) // (self._options.batch_size or self._train.batch_size))
        except TypeError:
            return 1000

    def _update(self, batch: Batch, steps: int, place: str) -> Mapping[str, TaskLoss]:
        """One step; each task's loss before it, where samples of the batch have its label."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.lr * rate(min(self._step, steps - 1), steps)
        self._optimizer.zero_grad(set_to_none=True)
        total, losses = self._loss(batch, place)
        self._step += 1
        if total is None:
            return losses
        self._accelerator.backward(total)
        if self._options.clip is not None:
            self._accelerator.clip_grad_norm_(self._parameters, self._options.clip)
        self._optimizer.step()
        if self._ema is not None:
            self._ema.update(self._module)
        return losses

    def _loss(self, batch: Batch, place: str) -> tuple[Tensor | None, Mapping[str, TaskLoss]]:
        """What is minimised, None where no task has a label and nothing is imitated, and each task's own loss."""
        with self._accelerator.autocast(), feeding(f"the train split, {place}", batch):
            output = widened(self._module(*batch.inputs))
        losses = batch_losses(self.tasks, output, batch.target)
        for name, loss in losses.items():
            if not bool(torch.isfinite(loss.value)):
                hint = "lower finetune.lr" + (", or set finetune.clip" if self._options.clip is None else "")
                hint = NOT_FINITE if holds_nan(batch.target) else hint
                raise PassError.one(
                    "P407", f"the loss of {name!r} is {float(loss.value.detach())} at {place}", hint=hint
                )
        found = {name: loss.value for name, loss in losses.items()}
        total: Tensor | None = weighted(self.tasks, found) if found else None
        if self._teacher is not None:
            with torch.no_grad(), self._accelerator.autocast():
                wanted = widened(self._teacher(*batch.inputs))
            copied = self._options.distill * weighted(self.tasks, _imitation(self.tasks, output, wanted))
            total = copied if total is None else total + copied
        return total, losses


def _optimizer(options: FinetuneOptions, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Weights decay; biases, norms and slopes, which have one axis, do not."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=options.lr)


def _imitation(tasks: Sequence[Task], output: Any, wanted: Any) -> dict[str, Any]:
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
