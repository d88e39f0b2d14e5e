"""The one adapter to torch-pruning: its importance classes, fed with our groups instead of its own.

What those classes read of a group is a list of (layer, pruning function, positions in the layer, positions in the
group); we build just that from the bindings. The first entry sets the length of their result, so an entry in which
every unit occurs once goes first; where there is none, a layer of zeros stands in, which their normalisation by the
mean cancels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pagcp_ir.channels import Binding, ChannelGraph, Group
from pagcp_ir.program import Program
from passes.batches import Batch
from passes.labels import Partial, TargetOf, take
from passes.oracle import Look
from passes.processes import broadcast_object
from passes.ratios import Scores
from passes.seeding import borrowed_rng
from passes.tasks import Task, task_losses, weighted

if TYPE_CHECKING:
    from passes.base import Context

__all__ = ["torch_pruning_scores"]

_Scorer = Callable[[Program, ChannelGraph, Group, "Context"], "Scores | None"]


@dataclass(frozen=True)
class _Item:
    """torch-pruning's GroupItem: unpacks as (dep, idxs)."""

    dep: Any
    idxs: list[int]
    root_idxs: list[int]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.dep, self.idxs))


def torch_pruning_scores(name: str) -> _Scorer:
    """The criterion of that name, with the prefix tp_."""

    def criterion(program: Program, channels: ChannelGraph, group: Group, ctx: Context) -> Scores | None:
        if name == "tp_random":
            # by seed and name: independent of the order of calls and of global generators
            generator = np.random.default_rng([ctx.seed, zlib.crc32(group.name.encode())])
            return generator.random(len(group.units))
        importance = _importance(name)
        module = program.module
        if name in ("tp_taylor", "tp_hessian"):
            oracle, module = ctx.need_oracle(name), program.copy()
            squared = name == "tp_hessian"
            gradients = oracle.once("squares", program, _squares(program)) if squared else oracle.gradients(program)
            for key, parameter in module.named_parameters():
                parameter.grad = gradients[key]
        present = np.flatnonzero(np.isin(group.units, np.concatenate([b.units for b in channels.of(group, "out")])))
        items = _items(module, channels, group, present, tuple(importance.target_types))
        found = importance(items) if items else None
        if found is None:
            return None
        total = np.zeros(len(group.units))
        # a group of zeros is normalised by a mean of zero
        total[present] = np.nan_to_num(found.detach().double().cpu().numpy()[: len(present)])
        return total

    return criterion


def _importance(name: str) -> Any:
    # here, not at the top: importing torch_pruning takes seconds
    from torch_pruning.pruner import importance

    table: Mapping[str, Callable[[], Any]] = {
        "tp_l1": lambda: importance.GroupMagnitudeImportance(p=1),
        "tp_l2": lambda: importance.GroupMagnitudeImportance(p=2),
        "tp_bn_scale": importance.BNScaleImportance,
        "tp_lamp": importance.LAMPImportance,
        "tp_fpgm": importance.FPGMImportance,
        "tp_taylor": importance.GroupTaylorImportance,
        "tp_hessian": importance.GroupHessianImportance,
    }
    return table[name]()


def _squares(program: Program) -> Look[Mapping[str, Tensor]]:
    """By parameter name: the mean over samples of the squared gradient of the weighted sum of the tasks' losses.

    It is what torch-pruning's Hessian criterion documents; its own `accumulate_grad` forgets all samples but the last.
    """

    def look(tasks: Sequence[Task], batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        module = program.copy().requires_grad_(True)
        parameters = dict(module.named_parameters())
        totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
        with borrowed_rng(0), torch.enable_grad():
            for batch in batches:
                for i in range(batch.size):
                    inputs, target = _sample((batch.inputs, batch.target), i, batch.size)
                    losses = task_losses(tasks, module(*inputs), target)
                    if not losses:  # the sample has no label
                        continue
                    loss = weighted(tasks, losses)
                    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                    for total, gradient in zip(totals.values(), found, strict=True):
                        if gradient is not None:
                            total += gradient.square()
        samples = sum(batch.size for batch in batches)
        return {name: total / samples for name, total in totals.items()}

    return lambda tasks, batches: broadcast_object("squared gradients", lambda: look(tasks, batches))


def _sample(tree: Any, index: int, size: int) -> Any:
    """Sample `index` of a collated batch, as a batch of one: of every tensor, and every list, of that length."""
    if isinstance(tree, Partial):
        return take(tree, torch.tensor([index]))
    if isinstance(tree, TargetOf):
        return TargetOf(tree.tasks, _sample(tree.value, index, size))
    if isinstance(tree, Tensor):
        return tree[index : index + 1] if tree.ndim and tree.shape[0] == size else tree
    if isinstance(tree, Mapping):
        return {key: _sample(value, index, size) for key, value in tree.items()}
    if isinstance(tree, list) and len(tree) == size:
        return tree[index : index + 1]
    return type(tree)(_sample(value, index, size) for value in tree) if isinstance(tree, (list, tuple)) else tree


def _items(
    module: nn.Module, channels: ChannelGraph, group: Group, present: Any, types: tuple[type, ...]
) -> list[_Item]:
    """One item per binding of a layer that the importance class scores, the covering one first."""
    place = {int(group.units[index]): i for i, index in enumerate(present)}
    items = []
    for role in ("out", "along", "in"):
        for binding in channels.of(group, role):
            item = _item(module, binding, place, types)
            if item is not None:
                items.append(item)
    width = len(place)
    for i, item in enumerate(items):
        if sorted(item.root_idxs) == list(range(width)):
            return [item, *items[:i], *items[i + 1 :]]
    return [_zeros(width, types), *items] if items else []


def _item(module: nn.Module, binding: Binding, place: Mapping[int, int], types: tuple[type, ...]) -> _Item | None:
    path, _, attribute = binding.tensor.rpartition(".")
    if attribute != "weight":
        return None
    layer = module.get_submodule(path)
    handler = _handler(layer, binding)
    if handler is None or not isinstance(layer, types):
        return None
    positions = [i for i, unit in enumerate(binding.units) if int(unit) in place]
    return _entry(layer, handler, positions, [place[int(binding.units[i])] for i in positions])


def _entry(layer: nn.Module, handler: Any, positions: list[int], roots: list[int]) -> _Item:
    dep = SimpleNamespace(layer=layer, target=SimpleNamespace(module=layer), pruning_fn=handler, handler=handler)
    return _Item(dep, positions, roots)


def _handler(layer: nn.Module, binding: Binding) -> Any:
    """torch-pruning's pruning function for that axis; None for what its importance classes do not score."""
    from torch_pruning.pruner import function

    if isinstance(layer, nn.modules.conv._ConvNd) and binding.role != "along":
        made = binding.role == "out"
        return function.prune_conv_out_channels if made else function.prune_conv_in_channels
    if isinstance(layer, nn.Linear) and binding.role != "along":
        made = binding.role == "out"
        return function.prune_linear_out_channels if made else function.prune_linear_in_channels
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return function.prune_batchnorm_out_channels
    if isinstance(layer, nn.LayerNorm):
        return function.prune_layernorm_out_channels
    return None


def _zeros(width: int, types: tuple[type, ...]) -> _Item:
    """A layer of zeros of the kind that is scored. skip_init: its random values would spend the global generator."""
    from torch_pruning.pruner import function

    layer: nn.Module
    if issubclass(nn.Linear, types):
        layer = nn.utils.skip_init(nn.Linear, 1, width, bias=False)  # type: ignore[no-untyped-call]
        handler = function.prune_linear_out_channels
    else:
        layer, handler = nn.BatchNorm1d(width), function.prune_batchnorm_out_channels
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    return _entry(layer, handler, list(range(width)), list(range(width)))
