"""The same network through torch-pruning: magnitude importance, ratio 0.5 per group, outputs left whole.

Its result is compared with its own masked original: the network as it was, in which every reader's weights are zero
for the input channels that torch-pruning took from that reader.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bench.zoo.ours import flops
from bench.zoo.process import Row, Stopwatch
from bench.zoo.results import RATIO

__all__ = ["measure", "warm_up"]

_NORMS = (nn.LayerNorm, nn.GroupNorm)
_READERS = (nn.modules.conv._ConvNd, nn.Linear)


def measure(model: nn.Module, size: int, protected: Sequence[str] | None, attention: bool, row: Row) -> None:
    """Fill `row`. `protected`: the layers to ignore; None: the last layer that runs."""
    image = torch.zeros(1, 3, size, size)
    original = copy.deepcopy(model)
    before = flops(model, size)
    row["protected"] = list(protected) if protected is not None else [_last_layer(model, image)]
    modules = dict(model.named_modules())
    ignored = [modules[name] for name in row["protected"] if name in modules]
    watch = Stopwatch()
    pruner = tp.pruner.BasePruner(
        model,
        torch.randn(1, 3, size, size),
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=RATIO,
        ignored_layers=ignored,
        num_heads=_heads(model),
    )
    row["seconds"] = {"graph": watch.read()}
    record = _Record(model)
    watch.read()
    for group in pruner.step(interactive=True):
        record.add(group)
        group.prune()
    row["seconds"]["prune"] = watch.read()
    row["_send"]()
    row["flops_kept"] = round(flops(model, size) / max(1, before), 5)
    row["ran"] = True
    row["_send"]()
    row |= record.compared(original, model, size, attention)


def warm_up() -> None:
    """Once on a small network, so that imports are not measured."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    measure(model, 8, None, False, {"_send": lambda: None})


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """What torch-pruning's own examples for transformers tell it."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module] = module.num_heads
        elif isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(
            getattr(module, "num_heads", None), int
        ):
            found[module.qkv] = module.num_heads
    return found


def _last_layer(model: nn.Module, image: Tensor) -> str:
    called: list[nn.Module] = []
    hooks = [
        m.register_forward_hook(lambda m, _i, _o: called.append(m)) for m in model.modules() if isinstance(m, _READERS)
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    names = {id(module): name for name, module in model.named_modules()}
    return names[id(called[-1])] if called else ""


class _Record:
    """Which original input channels every reader has lost, though the groups are pruned one after the other."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(module): name for name, module in model.named_modules()}
        self.alive: dict[str, np.ndarray[Any, Any]] = {}
        self.width: dict[str, int] = {}
        self.norms = False

    def add(self, group: Iterable[Any]) -> None:
        """Note the channels of a group that is about to be pruned."""
        for dependency, indices in group:
            module, handler = dependency.target.module, dependency.handler
            self.norms = self.norms or isinstance(module, _NORMS)
            if not isinstance(module, _READERS) or "in_channels" not in handler.__name__:
                continue
            if handler in (tp.prune_depthwise_conv_in_channels, tp.prune_depthwise_conv_out_channels):
                continue
            name = self.names[id(module)]
            width = module.in_features if isinstance(module, nn.Linear) else module.in_channels
            alive = self.alive.setdefault(name, np.arange(width))
            self.width.setdefault(name, width)
            self.alive[name] = np.delete(alive, np.unique(np.asarray(list(indices), dtype=np.int64)))

    def compared(self, original: nn.Module, pruned: nn.Module, size: int, attention: bool) -> Row:
        """{"equal": "yes" / "no" / "not comparable", "distance"}."""
        modules = dict(original.named_modules())
        with torch.no_grad():
            for name, alive in self.alive.items():
                gone = np.setdiff1d(np.arange(self.width[name]), alive)
                _zero_inputs(modules[name], torch.from_numpy(gone))
        original, pruned = original.double().eval(), pruned.double().eval()
        image = torch.randn(2, 3, size, size, dtype=torch.float64)
        with torch.no_grad():
            expected, got = _tensors(original(image)), _tensors(pruned(image))
        if [e.shape for e in expected] != [g.shape for g in got]:
            return {"equal": "no", "distance": None, "why": "its outputs have other shapes"}
        distance = max((_distance(e, g) for e, g in zip(expected, got, strict=True)), default=0.0)
        if distance <= 1e-6:
            return {"equal": "yes", "distance": float(f"{distance:.3g}")}
        reasons = [name for name, found in (("norms over channels", self.norms), ("attention", attention)) if found]
        told = {"equal": "not comparable" if reasons else "no", "distance": float(f"{distance:.3g}")}
        return {**told, "why": " and ".join(reasons)}


def _zero_inputs(layer: nn.Module, gone: Tensor) -> None:
    weight = layer.weight
    if isinstance(layer, nn.Linear):
        weight[:, gone] = 0
        return
    if layer.transposed:
        weight[gone] = 0
        return
    per, rows = weight.shape[1], weight.shape[0] // layer.groups
    for channel in gone.tolist():
        part = channel // per
        weight[part * rows : (part + 1) * rows, channel % per] = 0


def _tensors(outputs: Any) -> list[Tensor]:
    return [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor) and v.is_floating_point()]


def _distance(expected: Tensor, got: Tensor) -> float:
    scale = float(expected.std()) if expected.numel() > 1 else float(expected.abs().max())
    return float((expected - got).abs().max()) / max(scale, 1e-30)
