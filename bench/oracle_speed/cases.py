"""Trained networks with held-out images: digits, which come with scikit-learn, and ResNets on CIFAR-10-JPEG."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from bench.zoo.cifar import cifar_resnet
from passes.data import Batch, Split
from passes.tasks import Task

__all__ = ["Case", "data_folder", "load"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "specs" / "examples"
CLASSES, COLOURS = 10, 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """A trained network in eval mode, its input [1, ...], its tasks, and batches that it was not trained on."""

    name: str
    model: nn.Module
    shape: tuple[int, ...]
    tasks: tuple[Task, ...]
    batches: tuple[Batch, ...]
    peer: bool
    """Whether torch-pruning can cut it."""


def data_folder() -> Path:
    """Where research data lie that are not part of the project."""
    return Path(os.environ.get("PAGCP_DATA", ROOT.parent / "shared" / "data"))


def load(name: str, images: int, batch_size: int) -> Case:
    """The case with so many images; "resnet20x2" is twice as wide, and computes what resnet20 does.

    Beyond the 10,000 that are held out of the ResNets' training come training images, which are good for costs only.
    FileNotFoundError without the data of the ResNets.
    """
    if name == "digits":
        return _digits(images, batch_size)
    depth, _, times = name.removeprefix("resnet").partition("x")
    return _resnet(int(depth), int(times or 1), images, batch_size)


def _digits(images: int, batch_size: int) -> Case:
    sys.path.insert(0, str(EXAMPLES))
    import digits

    model = digits.build().eval()
    model.load_state_dict(load_file(str(EXAMPLES / "digits.safetensors")))
    tasks = (
        Task("digit", "digit", "digit", loss=functional.cross_entropy),
        Task("denoise", "denoise", "denoise", loss=functional.mse_loss, weight=10.0),
    )
    known = digits.datasets()
    samples = [known[name][i] for name in ("calibration", "validation", "test") for i in range(len(known[name]))]
    return Case("digits", model, (1, 1, 8, 8), tasks, _batches(samples[:images], batch_size), peer=True)


def _resnet(depth: int, times: int, images: int, batch_size: int) -> Case:
    folder, blocks = data_folder(), (depth - 2) // 6
    model = cifar_resnet(depth, times=times).eval()
    weights = load_file(str(folder / f"cifar10_resnet{depth}.safetensors"))
    model.load_state_dict({_place(name, blocks): _widened(tensor, times) for name, tensor in weights.items()})
    tasks = (Task("class", loss=functional.cross_entropy),)
    samples = _cifar("test", images)
    samples += _cifar("train", images - len(samples)) if images > len(samples) else []
    return Case(f"resnet{depth}", model, (1, 3, 32, 32), tasks, _batches(samples, batch_size), peer=False)


def _cifar(split: str, most: int) -> list[tuple[Tensor, int]]:
    with np.load(data_folder() / "cifar10_jpeg.npz") as found:
        jpeg, offsets, labels = (found[f"{split}_{key}"] for key in ("jpeg", "offsets", "labels"))
    order = np.random.default_rng(0).permutation(len(labels))[:most]
    return [(_decoded(jpeg[offsets[i] : offsets[i + 1]]), int(labels[i])) for i in order]


def _widened(tensor: Tensor, times: int) -> Tensor:
    """The tensor of a network in which every channel is there `times`, but for 3 inputs and 10 classes."""
    if tensor.ndim >= 1 and len(tensor) != CLASSES:
        tensor = tensor.repeat_interleave(times, 0)
    if tensor.ndim >= 2 and tensor.shape[1] != COLOURS:
        tensor = tensor.repeat_interleave(times, 1) / times
    return tensor


def _place(name: str, blocks: int) -> str:
    """Where a tensor of the published weights is in ours, a plain sequence with so many blocks a stage."""
    first, *rest = name.split(".")
    if first.startswith("layer"):
        return ".".join([str(3 + blocks * (int(first[5:]) - 1) + int(rest[0])), *rest[1:]])
    return ".".join([{"conv1": "0", "bn1": "1", "linear": str(3 * blocks + 5)}[first], *rest])


def _decoded(data: Any) -> Tensor:
    from PIL import Image

    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data.tobytes())))).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def _batches(samples: Sequence[Any], batch_size: int) -> tuple[Batch, ...]:
    return Split("calibration", list(samples), batch_size).cached()
