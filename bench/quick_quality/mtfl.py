"""MTFL (Zhang et al., ECCV 2014) at 48x48 gray, and a network trained on it here.

Of the official training faces 8,200 train, 300 validate, 1,500 are drawn from to calibrate; the official test part
tests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from bench.mtfl.mtfl import CLASSES, FaceNet, augmented, distance, loaded
from bench.quick_quality.cases import Case, classified, taken
from bench.quick_quality.training import Recipe, trained
from passes.metrics import Whole
from passes.tasks import Task
from specs.options import FinetuneOptions

__all__ = ["mtfl"]

RECIPE = Recipe(epochs=20, lr=4e-3)
FINETUNE = FinetuneOptions(epochs=1, lr=1e-3, batch_size=64)
TRAIN, VALIDATION = 8200, 300


def mtfl(data: Path) -> Case:
    """The case. Its network is trained where no weights are cached: some minutes."""
    whole, test = (loaded(data, name) for name in ("train", "test"))
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
