"""MTFL (Zhang et al., ECCV 2014) at 48x48 gray, and a network trained on it here.

Of the official training faces 8,200 train, 300 validate, 1,500 are drawn from to calibrate; the official test part
tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.quick_quality.cases import Case, classified, taken
from bench.quick_quality.faces import CLASSES, FaceNet, flipped
from bench.quick_quality.training import Part, Recipe, trained
from passes.metrics import Whole
from passes.tasks import Task
from specs.options import FinetuneOptions

__all__ = ["mtfl"]

RECIPE = Recipe(epochs=20, lr=4e-3)
FINETUNE = FinetuneOptions(epochs=1, lr=1e-3, batch_size=64)
TRAIN, VALIDATION = 8200, 300
SHIFT = 2
"""Pixels that faces are shifted by at most while training."""


def mtfl(data: Path) -> Case:
    """The case. Its network is trained where no weights are cached: some minutes."""
    with np.load(data / "mtfl48_gray.npz") as found:
        whole, test = (_part(found, name) for name in ("train", "test"))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(whole[0])))
    train, validation = taken(whole, order[:TRAIN]), taken(whole, order[TRAIN : TRAIN + VALIDATION])
    torch.manual_seed(0)
    model, key = trained("mtfl", FaceNet(), TASKS, train, augmented, RECIPE)
    return Case(
        name="mtfl",
        key=key,
        model=model,
        shape=(1, 1, 48, 48),
        tasks=TASKS,
        train=train,
        pool=taken(whole, order[TRAIN + VALIDATION :]),
        validation=validation,
        test=test,
        finetune=FINETUNE,
        outputs=("heads.*.2",),
        macs=0.475,
        tuned=8000,
    )


def _part(found: Any, name: str) -> Part:
    images = torch.from_numpy(found[f"{name}_x"]).float().unsqueeze(1).div(63.75).sub(2)
    attributes = torch.from_numpy(found[f"{name}_attrs"]).long()
    target = {task: attributes[:, i] for i, task in enumerate(CLASSES)}
    return images, {"landmarks": torch.from_numpy(found[f"{name}_landmarks"]).flatten(1), **target}


def augmented(images: Tensor, target: dict[str, Tensor]) -> Part:
    """Half of the batch in the mirror, all of it shifted alike."""
    half = len(images) // 2
    other, seen = flipped(images[:half], {name: value[:half] for name, value in target.items()})
    images = torch.cat([other, images[half:]])
    target = {name: torch.cat([seen[name], value[half:]]) for name, value in target.items()}
    right, down = (int(torch.randint(-SHIFT, SHIFT + 1, ())) for _ in range(2))
    padded = functional.pad(images, (SHIFT,) * 4, mode="replicate")
    size = images.shape[3]
    images = padded[:, :, SHIFT - down : SHIFT - down + size, SHIFT - right : SHIFT - right + size]
    moved = target["landmarks"] + torch.tensor([right, down] * 5) / size
    return images.contiguous(), {**target, "landmarks": moved}


def distance(output: Tensor, target: Tensor) -> float:
    """Mean distance of the landmarks [N, 10], as a fraction of the side."""
    return float((output - target).view(-1, 5, 2).double().norm(dim=2).mean())


TASKS = (
    Task(
        "landmarks",
        "landmarks",
        "landmarks",
        functional.mse_loss,
        weight=200.0,
        metric_name="distance",
        metric=lambda device: Whole(distance),
        higher_is_better=False,
    ),
    *(classified(name, name) for name in CLASSES),
)
