"""ResNet-20 on CIFAR-10-JPEG: the published weights, trained on for a while on JPEG images.

They have seen all official training images (without loss), so that only the official test images are new to them:
5,000 of those test, 500 validate, and the other 4,500 are drawn from to calibrate.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.oracle_speed.cases import MEAN, STD, load
from bench.quick_quality.cases import Case, classified, taken
from bench.quick_quality.training import Part, Recipe, trained
from specs.options import FinetuneOptions

__all__ = ["resnet20"]

RECIPE = Recipe(epochs=3, lr=1e-3, weight_decay=1e-4)
FINETUNE = FinetuneOptions(epochs=1, optimizer="sgd", lr=0.01, batch_size=32)
TRAIN, TEST, VALIDATION = 10_000, 5000, 500
TASKS = (classified("class"),)


def resnet20(data: Path) -> Case:
    """The case, with the blocks' inner widths to cut: torch-pruning fails on the others."""
    with np.load(data / "cifar10_jpeg.npz") as found:
        train, rest = _part(found, "train", TRAIN), _part(found, "test", 10_000)
    model = load("resnet20", 1, 1).model
    model, key = trained("resnet20", model, TASKS, train, augmented, RECIPE)
    return Case(
        name="resnet20",
        key=key,
        model=model,
        shape=(1, 3, 32, 32),
        tasks=TASKS,
        train=train,
        pool=taken(rest, slice(TEST + VALIDATION, None)),
        validation=taken(rest, slice(TEST, TEST + VALIDATION)),
        test=taken(rest, slice(TEST)),
        finetune=FINETUNE,
        outputs=("14",),
        protect=("0", "*.conv2"),
    )


def _part(found: Any, name: str, count: int) -> Part:
    """`count` images, drawn at random: they are sorted by class."""
    from PIL import Image

    jpeg, offsets, labels = (found[f"{name}_{key}"] for key in ("jpeg", "offsets", "labels"))
    order = np.random.default_rng(0).permutation(len(labels))[:count]
    files = (io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes()) for i in order)
    pixels = torch.from_numpy(np.stack([np.array(Image.open(file)) for file in files])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).contiguous(), torch.from_numpy(labels[order].astype(np.int64))


def augmented(images: Tensor, target: Tensor) -> Part:
    """Half of the batch in the mirror, all of it shifted alike."""
    images = torch.cat([images[: len(images) // 2].flip(3), images[len(images) // 2 :]])
    right, down = (int(torch.randint(9, ())) for _ in range(2))
    return functional.pad(images, (4,) * 4)[:, :, down : down + 32, right : right + 32].contiguous(), target
