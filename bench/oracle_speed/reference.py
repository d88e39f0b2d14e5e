"""The published procedure, written from its description (arXiv 2303.11923): the arm that the searches are held against.

Per group and ratio: a deep copy of the network, its dependency graph built again, the group cut, a full pass over the
calibration set. torch-pruning finds and cuts the groups where it can, our own analysis where it cannot (option A
shortcuts). Cuts of no channel are skipped, and a group that is never rejected keeps its last ratio.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.oracle_speed.cases import Case
from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from passes.criteria import scores
from passes.ratios import Cutter
from passes.samples import merged
from passes.schedule import growth
from passes.tasks import task_losses
from specs.options import PagcpOptions

__all__ = ["Reference", "reference"]

Removed = dict[str, tuple[int, ...]]
"""By group: positions in the group that are cut."""


@dataclass
class Reference:
    """What the procedure decided, and what it cost. `losses`: by task, at the start and at the end."""

    removed: Removed = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    macs: int = 0
    evaluations: int = 0
    images: int = 0


class Surgeon(Protocol):
    """Cuts a fresh copy of the network."""

    widths: dict[str, int]

    def cut(self, removed: Removed) -> nn.Module:
        """A deep copy, its graph built again, cut."""

    def saliency(self, removed: Removed, group: str) -> NDArray[np.float64]:
        """The group's scores in the network cut so far."""


def reference(case: Case, options: PagcpOptions) -> Reference:
    """Run the procedure with these options: tolerance, total, grid and probe."""
    surgeon: Surgeon = TorchPruning(case) if case.peer else OurAnalysis(case)
    found, batches = Reference(), merged(case.batches)

    def losses(model: nn.Module) -> dict[str, float]:
        totals = {task.name: 0.0 for task in case.tasks}
        with torch.inference_mode():
            for batch in batches:
                for name, loss in task_losses(case.tasks, model(*batch.inputs), batch.target).items():
                    totals[name] += float(loss) * batch.size
        samples = sum(batch.size for batch in batches)
        found.evaluations, found.images = found.evaluations + 1, found.images + samples
        return {name: total / samples for name, total in totals.items()}

    if options.total == "auto":
        raise ValueError("the procedure needs a total")
    factor = growth(options.tolerance, options.total, len(surgeon.widths))
    base = found.first = found.last = losses(case.model)
    tolerance = options.tolerance
    for group in _ordered(case, surgeon, options.probe, factor):
        order = np.argsort(surgeon.saliency(found.removed, group), kind="stable")
        best = None
        for ratio in options.grid:
            count = min(_floor(ratio, len(order)), _floor(options.max_ratio, len(order)))
            if count == 0 or (best is not None and count == len(best[0])):
                continue
            cut = tuple(sorted(order[:count].tolist()))
            now = losses(surgeon.cut({**found.removed, group: cut}))
            if not all(now[task] / base[task] <= 1 + tolerance for task in base):
                break
            best = cut, now
        if best is not None:
            found.removed[group], found.last = best
            tolerance *= factor
            base = {task: max(loss, found.last[task]) for task, loss in base.items()}
    found.macs = _macs(surgeon.cut(found.removed), case)
    return found


def _floor(ratio: float, width: int) -> int:
    return math.floor(ratio * width + 1e-9)


def _ordered(case: Case, surgeon: Surgeon, probe: float, factor: float) -> list[str]:
    """By the MACs that cutting `probe` of the group saves."""
    whole, saved = _macs(case.model, case), {}
    for group, width in surgeon.widths.items():
        order = np.argsort(surgeon.saliency({}, group), kind="stable")
        saved[group] = whole - _macs(surgeon.cut({group: tuple(order[: _floor(probe, width)].tolist())}), case)
    return sorted(saved, key=lambda group: saved[group], reverse=factor <= 1)


def _macs(model: nn.Module, case: Case) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(case.shape))
    return int(counter.get_total_flops() // 2)


class OurAnalysis:
    """Cuts by the project's own analysis and rewriting, made again for every copy."""

    def __init__(self, case: Case) -> None:
        self._case = case
        _, channels = self._fresh()
        self.widths = {group.name: len(group.units) for group in Cutter(channels, PagcpOptions()).groups}

    def cut(self, removed: Removed) -> nn.Module:
        """See Surgeon."""
        program, channels = self._fresh()
        return materialise(program, channels, _kept(channels, removed)).module

    def saliency(self, removed: Removed, group: str) -> NDArray[np.float64]:
        """See Surgeon."""
        program, channels = self._fresh()
        keep, nobody = _kept(channels, removed), None
        now: Any = materialise(program, channels, keep)
        found = scores("l1", now, channels.restrict(keep), [channels.group(group)], nobody)  # type: ignore[arg-type]
        return np.asarray(found[group])

    def _fresh(self) -> tuple[Program, ChannelGraph]:
        program = trace(copy.deepcopy(self._case.model), [TensorSpec(self._case.shape)])
        return program, analyse(program)


def _kept(channels: ChannelGraph, removed: Removed) -> Keep:
    keep = channels.all
    for group, positions in removed.items():
        keep[channels.group(group).units[list(positions)]] = False
    return keep


class TorchPruning:
    """Cuts by torch-pruning's dependency graph, made again for every copy; groups are named by their first layer."""

    def __init__(self, case: Case) -> None:
        program = trace(case.model, [TensorSpec(case.shape)])
        groups = Cutter(analyse(program), PagcpOptions()).groups
        self._case = case
        self._layers = {group.name: group.producers for group in groups}
        self.widths = {group.name: len(group.units) for group in groups}
        self._working: tuple[Removed, nn.Module] = {}, case.model

    def cut(self, removed: Removed) -> nn.Module:
        """See Surgeon. All but the last group must have been cut before in that order."""
        done, working = self._working
        if not all(removed.get(group) == cut for group, cut in done.items()):
            done, working = {}, self._case.model
        model = copy.deepcopy(working)
        for group in (group for group in removed if group not in done):
            self._prune(model, group, removed[group])
        return model

    def saliency(self, removed: Removed, group: str) -> NDArray[np.float64]:
        """See Surgeon: the filter's L1 norm, or the sum of the layers' means of |W|."""
        self._working = dict(removed), self.cut(removed)
        layers = [self._working[1].get_submodule(name) for name in self._layers[group]]
        filters = [_filters(layer).abs() for layer in layers]
        return sum(f.mean(1).numpy() for f in filters) if len(layers) > 1 else filters[0].sum(1).numpy()

    def _prune(self, model: nn.Module, group: str, positions: Sequence[int]) -> None:
        import torch_pruning as tp

        graph = tp.DependencyGraph().build_dependency(model, torch.zeros(self._case.shape), verbose=False)
        layer = model.get_submodule(self._layers[group][0])
        pruner = graph.get_pruner_of_module(layer)
        graph.get_pruning_group(layer, pruner.prune_out_channels, list(positions)).prune()


def _filters(layer: nn.Module) -> torch.Tensor:
    """float64 [filters, rest]."""
    weight: Any = layer.weight
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    return weight.detach().double().flatten(1)
