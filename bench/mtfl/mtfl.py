"""Five tasks on one image of a face: five landmarks, gender, smile, glasses and head pose.

The data is MTFL (Zhang et al., ECCV 2014) at 48x48 gray pixels. This file is ordinary PyTorch and imports nothing of
pagcp: it is what a user brings.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

__all__ = ["CLASSES", "FaceNet", "Faces", "Part", "datasets", "distance", "flipped", "loaded", "parts", "shifted"]

CLASSES = {"gender": 2, "smile": 2, "glasses": 2, "pose": 5}
SPLITS = {"train": 8200, "validation": 1200, "calibration": 600}
"""What the 10,000 official training faces are for; the official test faces test."""
SHIFT = 2
"""Pixels that faces are shifted by at most while training."""
MIRRORED = (1, 0, 2, 4, 3)
"""Where the eyes, the nose and the corners of the mouth are in the mirror, by their place in the image."""
Part = tuple[Tensor, dict[str, Tensor]]
"""Images [N, 1, 48, 48], and of each task its targets [N, ...]."""


class _Block(nn.Module):
    """x + f(x), or of another shape a projection of x + f(x)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        plain = stride == 1 and width_in == width
        shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Identity() if plain else shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class FaceNet(nn.Module):
    """[N, 1, 48, 48] to {"landmarks": [N, 10] as fractions of the side, x before y, and logits by attribute}."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
        self.blocks = nn.Sequential(*(_Block(*each) for each in widths))
        self.heads = nn.ModuleDict({name: _head(32, classes) for name, classes in CLASSES.items()})
        self.heads["landmarks"] = _head(64, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 3).flatten(1)
        found = {name: self.heads[name](x) for name in CLASSES}
        return {"landmarks": self.heads["landmarks"](x) + 0.5, **found}


def _head(hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64 * 9, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Faces(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The faces of a part. `moving`: every time that one is read it is mirrored or not, and shifted a little."""

    def __init__(self, part: Part, moving: bool = False) -> None:
        self.images, self.target = part
        self.moving = moving

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        part: Part = self.images[index, None], {name: value[index, None] for name, value in self.target.items()}
        if self.moving:
            # from torch's own random numbers: what fine-tuning sees depends on the spec's seed and the epoch alone
            if torch.rand(()) < 0.5:
                part = flipped(*part)
            part = shifted(*part, *_shift())
        return part[0][0], {name: value[0] for name, value in part[1].items()}


def datasets() -> dict[str, Faces]:
    """The four splits, pairwise disjoint. The folder is the one that PAGCP_DATA names."""
    here = Path(os.environ.get("PAGCP_DATA", Path(__file__).parents[3] / "shared" / "data"))
    return {name: Faces(part, moving=name == "train") for name, part in parts(here).items()}


def parts(folder: Path) -> dict[str, Part]:
    """The data of the four splits. Which face is in which never changes."""
    (images, target), test = (loaded(folder, name) for name in ("train", "test"))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    chosen = zip(SPLITS, order.split(list(SPLITS.values())), strict=True)
    found = {name: (images[which], {task: value[which] for task, value in target.items()}) for name, which in chosen}
    return {**found, "test": test}


def loaded(folder: Path, name: str) -> Part:
    """The official part of that name, train or test. Pixels lie in -2..2, landmarks are [N, 10]."""
    with np.load(folder / "mtfl48_gray.npz") as found:
        images = torch.from_numpy(found[f"{name}_x"]).float().unsqueeze(1).div(63.75).sub(2)
        attributes = torch.from_numpy(found[f"{name}_attrs"]).long()
        landmarks = torch.from_numpy(found[f"{name}_landmarks"]).flatten(1)
    return images, {"landmarks": landmarks, **{task: attributes[:, i] for i, task in enumerate(CLASSES)}}


def flipped(images: Tensor, target: dict[str, Tensor]) -> Part:
    """The mirror images of [N, 1, 48, 48] and what they show: eyes, corners of the mouth and poses change sides."""
    points = target["landmarks"].view(-1, 5, 2)[:, MIRRORED] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    pose = CLASSES["pose"] - 1 - target["pose"]
    return images.flip(3), {**target, "landmarks": points.flatten(1), "pose": pose}


def shifted(images: Tensor, target: dict[str, Tensor], right: int, down: int) -> Part:
    """All images moved by so many pixels, at most SHIFT, and their landmarks too."""
    size = images.shape[3]
    padded = functional.pad(images, (SHIFT,) * 4, mode="replicate")
    images = padded[:, :, SHIFT - down : SHIFT - down + size, SHIFT - right : SHIFT - right + size]
    moved = target["landmarks"] + torch.tensor([right, down] * 5) / size
    return images.contiguous(), {**target, "landmarks": moved}


def augmented(images: Tensor, target: dict[str, Tensor]) -> Part:
    """Half of the batch in the mirror, all of it shifted alike."""
    half = len(images) // 2
    other, seen = flipped(images[:half], {name: value[:half] for name, value in target.items()})
    together = {name: torch.cat([seen[name], value[half:]]) for name, value in target.items()}
    return shifted(torch.cat([other, images[half:]]), together, *_shift())


def _shift() -> tuple[int, int]:
    right, down = (int(torch.randint(-SHIFT, SHIFT + 1, ())) for _ in range(2))
    return right, down


def distance(output: Tensor, target: Tensor) -> float:
    """Mean distance of the landmarks [N, 10], as a fraction of the side."""
    return float((output - target).view(-1, 5, 2).double().norm(dim=2).mean())
