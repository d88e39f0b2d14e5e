"""What is pruned: a trained network, its tasks, and its images in parts that share none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bench.quick_quality.training import Part
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.trace import trace
from passes.data import Split
from passes.metrics import Whole
from passes.tasks import Task
from specs.options import FinetuneOptions

__all__ = ["Case", "accuracy", "classified", "split", "taken"]


@dataclass(frozen=True)
class Case:
    """`key`: of its weights. `train`: all that it was trained on; calibration draws come from `pool`.

    `macs`: the share that is kept at most. `tuned`: so many training images are drawn to fine-tune on.
    `outputs`, `protect`: globs of the last layers, and of others that no arm cuts.
    """

    name: str
    key: str
    model: nn.Module
    shape: tuple[int, ...]
    tasks: tuple[Task, ...]
    train: Part
    pool: Part
    validation: Part
    test: Part
    finetune: FinetuneOptions
    outputs: tuple[str, ...]
    protect: tuple[str, ...] = ()
    macs: float = 0.51
    tuned: int = 4000
    calibration: int = 500

    @property
    def setting(self) -> dict[str, Any]:
        """What determines an arm's result beside the arm and the seed."""
        sizes = {name: len(getattr(self, name)[0]) for name in ("train", "pool", "validation", "test")}
        numbers = {name: getattr(self, name) for name in ("macs", "tuned", "calibration")}
        globs = {"protect": list(self.protect), "outputs": list(self.outputs)}
        tuning = self.finetune.model_dump(mode="json", exclude_unset=True)
        return {"key": self.key, **sizes, **numbers, **globs, "finetune": tuning}

    def program(self) -> Program:
        """The dense network, traced."""
        return trace(self.model, [TensorSpec(self.shape)])

    def calibrating(self, seed: int) -> Split:
        """The seed's draw from the pool."""
        return split("calibration", taken(self.pool, _drawn(len(self.pool[0]), self.calibration, seed)), 100)

    def training(self, seed: int) -> Split:
        """The seed's draw from the training images; their order is the seed's, too."""
        return split("train", taken(self.train, _drawn(len(self.train[0]), self.tuned, seed)), seed=seed)

    def drops(self, metrics: Mapping[str, float], dense: Mapping[str, float]) -> dict[str, float]:
        """By task: how much worse than dense, relative to dense; negative where it is better."""
        better = {task.name: task.higher_is_better for task in self.tasks}
        return {name: (value / dense[name] - 1) * (-1 if better[name] else 1) for name, value in metrics.items()}


def _drawn(size: int, count: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]


def taken(part: Part, which: Tensor | slice) -> Part:
    """Those samples of the part."""
    return part[0][which], pytree.tree_map(lambda leaf: leaf[which], part[1])


def split(name: str, part: Part, batch_size: int = 250, seed: int = 0) -> Split:
    """The part as the passes read it."""
    samples = [(part[0][i], pytree.tree_map(lambda leaf, i=i: leaf[i], part[1])) for i in range(len(part[0]))]
    return Split(name, samples, batch_size, seed=seed)


def accuracy(output: Tensor, target: Tensor) -> float:
    """Share of [N] that the logits [N, classes] get right."""
    return float((output.argmax(1) == target).double().mean())


def classified(name: str, key: str | None = None) -> Task:
    """A task of classes, at that key of outputs and targets."""
    loss = nn.functional.cross_entropy
    return Task(name, key, key, loss, metric_name="accuracy", metric=lambda device: Whole(accuracy))
