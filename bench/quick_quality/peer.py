"""torch-pruning's own pruner, at the smallest of its ratios that meets the budget."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from bench.quick_quality.cases import Case
from pagcp_ir.analyse import analyse
from pagcp_ir.cost import costs
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.data import Batch
from passes.tasks import task_losses, weighted

__all__ = ["Measure", "cut_by_peer", "macs"]

Measure = Literal["l1", "taylor"]
MAX_RATIO = 0.95
"""What no layer may lose more of: as in our passes."""
STEPS = 12
"""Halvings of the span of ratios."""


def cut_by_peer(case: Case, measure: Measure, whole: bool, batches: Sequence[Batch]) -> nn.Module:
    """A cut copy of the case's network. `whole`: ranked over the whole network at once, or each layer in itself.

    The ratio is bisected; of all that were tried and meet the budget the network that costs most is taken.
    """
    model = copy.deepcopy(case.model)
    if measure == "taylor":
        _differentiate(case, model, batches)
    limit = case.macs * macs(model, case.shape)
    low, high = 0.0, 1.0
    best: tuple[int, nn.Module] | None = None
    for _ in range(STEPS):
        ratio = (low + high) / 2
        cut = _pruned(case, model, measure, whole, ratio)
        spent = macs(cut, case.shape)
        low, high = (low, ratio) if spent <= limit else (ratio, high)
        if spent <= limit and (best is None or spent > best[0]):
            best = spent, cut
    if best is None:
        raise ValueError(f"torch-pruning reaches {spent} MACs at ratio {ratio}, {limit:.0f} are asked for")
    best[1].zero_grad(set_to_none=True)
    return best[1]


def macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """MACs of one sample, by the same count for every arm."""
    return costs(analyse(trace(model, [TensorSpec(shape)]))).macs


def _differentiate(case: Case, model: nn.Module, batches: Sequence[Batch]) -> None:
    """The gradient of the mean over all samples of the weighted sum of the tasks' losses."""
    samples = sum(batch.size for batch in batches)
    for batch in batches:
        losses = task_losses(case.tasks, model(*batch.inputs), batch.target)
        (weighted(case.tasks, losses) * batch.size / samples).backward()


def _pruned(case: Case, model: nn.Module, measure: Measure, whole: bool, ratio: float) -> nn.Module:
    import torch_pruning as tp

    logging.getLogger("torch_pruning").setLevel(logging.ERROR)
    cut = copy.deepcopy(model)
    for made, given in zip(cut.parameters(), model.parameters(), strict=True):  # a copy has no gradients
        made.grad = None if given.grad is None else given.grad.clone()
    by = tp.importance
    tp.pruner.MetaPruner(
        cut,
        torch.zeros(case.shape),
        importance=by.GroupMagnitudeImportance(p=1) if measure == "l1" else by.GroupTaylorImportance(),
        global_pruning=whole,
        pruning_ratio=ratio,
        max_pruning_ratio=MAX_RATIO,
        ignored_layers=[module for name, module in cut.named_modules() if _ignored(case, name)],
    ).step()
    return cut


def _ignored(case: Case, name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in (*case.protect, *case.outputs))
