"""Dense networks: trained once by a recipe, and kept outside the repository under a hash of network and recipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils import _pytree as pytree

from bench.quick_quality.cached import folder, key, written
from passes.tasks import Task, task_losses, weighted

__all__ = ["Augment", "Part", "Recipe", "trained"]

Part = tuple[Tensor, Any]
"""Images [N, ...] and a tree of tensors [N, ...] of what they show."""
Augment = Callable[[Tensor, Any], Part]


@dataclass(frozen=True)
class Recipe:
    """AdamW on the weighted sum of the losses, one cycle of learning rates. `version`: of data and augmenting."""

    epochs: int
    lr: float
    weight_decay: float = 0.05
    batch_size: int = 64
    seed: int = 0
    version: int = 1


def trained(
    name: str, model: nn.Module, tasks: Sequence[Task], part: Part, augment: Augment, recipe: Recipe
) -> tuple[nn.Module, str]:
    """`model` as the recipe leaves it, in eval mode, and the key of its weights; read back where they are known."""
    weights = {task.name: task.weight for task in tasks}
    found = key(name, str(model), weights, asdict(recipe), len(part[0]))
    path = folder() / f"{name}-{found}.safetensors"
    if not path.is_file():
        state = torch.random.get_rng_state()
        torch.manual_seed(recipe.seed)
        _train(model, tasks, part, augment, recipe)
        torch.random.set_rng_state(state)
        written(path, save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
    model.load_state_dict(load(path.read_bytes()))
    return model.eval(), found


def _train(model: nn.Module, tasks: Sequence[Task], part: Part, augment: Augment, recipe: Recipe) -> None:
    decaying = [p for p in model.parameters() if p.ndim > 1]
    others = [{"params": decaying}, {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(others, lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = len(part[0]) // recipe.batch_size
    schedule = OneCycleLR(optimizer, recipe.lr, total_steps=recipe.epochs * steps, pct_start=0.15)
    model.train()
    for epoch in range(recipe.epochs):
        began, told = time.perf_counter(), dict.fromkeys((task.name for task in tasks), 0.0)
        order = torch.randperm(len(part[0]))
        for step in range(steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            images, target = augment(part[0][chosen], pytree.tree_map(lambda t, chosen=chosen: t[chosen], part[1]))
            losses: Mapping[str, Tensor] = task_losses(tasks, model(images), target)
            optimizer.zero_grad(set_to_none=True)
            weighted(tasks, losses).backward()
            optimizer.step()
            schedule.step()
            for name, loss in losses.items():
                told[name] += float(loss.detach()) / steps
        line = ", ".join(f"{name} {loss:.4g}" for name, loss in told.items())
        print(f"epoch {epoch + 1}/{recipe.epochs}, {time.perf_counter() - began:.0f} s: {line}", file=sys.stderr)
    model.zero_grad(set_to_none=True)
