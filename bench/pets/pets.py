"""Three tasks on one image of a cat or a dog: which pixels it covers, of which breed it is, and where its head is.

The data is 600 images of Oxford-IIIT Pet at 96x96 pixels; the head has a box in half of them. This file is ordinary
PyTorch and imports nothing of pagcp: it is what a user brings.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

__all__ = ["Part", "PetNet", "Pets", "augmented", "datasets", "overlap", "parts", "placed"]

TRIMAP, BREEDS = 3, 3
"""Classes: animal, background, border; Abyssinian, Bengal, American Bulldog."""
SPLITS = {"train": 320, "calibration": 80}
"""What the 400 training images of the file are for."""
Part = tuple[Tensor, dict[str, Tensor]]
"""Images [N, 3, 96, 96], and "trimap" [N, 96, 96], "breed" [N], "box" [N, 4] as fractions, NaN where there is none."""


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Down(nn.Module):
    """[N, inputs, 2H, 2W] -> [N, outputs, H, W], with a residual convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv(inputs, outputs, stride=2)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.relu(x + self.second(x))


class Up(nn.Module):
    """Twice the size, joined with what the encoder had there: [N, inputs, H, W] and [N, outputs, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.fuse = conv(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.fuse(torch.cat([self.up(x), skip], 1))
        return y


class PetNet(nn.Module):
    """[N, 3, 96, 96] -> trimap logits [N, 3, 96, 96], breed logits [N, 3] and the head's box [N, 4]: x0, y0, x1, y1."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = conv(3, width, stride=2)
        widths = (width, 2 * width, 4 * width, 6 * width)
        self.down = nn.ModuleList(Down(*pair) for pair in pairwise(widths))
        self.up = nn.ModuleList(Up(*pair) for pair in pairwise(widths[::-1]))
        self.trimap = nn.ConvTranspose2d(width, TRIMAP, 2, stride=2)
        self.breed = _head(widths[-1], 4 * width, BREEDS)
        self.box = _head(9 * widths[-1], 4 * width, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        skips = [self.stem(x)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = deep = skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        box = torch.sigmoid(self.box(functional.avg_pool2d(deep, 2).flatten(1)))
        return {"trimap": self.trimap(x), "breed": self.breed(deep.mean((2, 3))), "box": box}


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Pets(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The images of a part. `moving`: every time that one is read it is zoomed, shifted and mirrored another way."""

    def __init__(self, part: Part, moving: bool = False) -> None:
        self.images, self.target = part
        self.moving = moving

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        part: Part = self.images[index, None], {name: value[index, None] for name, value in self.target.items()}
        if self.moving:
            # from torch's own random numbers: what fine-tuning sees depends on the spec's seed and the epoch alone
            part = augmented(*part)
        return part[0][0], {name: value[0] for name, value in part[1].items()}


def datasets() -> dict[str, Pets]:
    """The four splits, pairwise disjoint. The folder is the one that PAGCP_DATA names."""
    here = Path(os.environ.get("PAGCP_DATA", Path(__file__).parents[3] / "shared" / "data"))
    return {name: Pets(part, moving=name == "train") for name, part in parts(here).items()}


def parts(folder: Path) -> dict[str, Part]:
    """The data of the four splits. Which image is in which never changes."""
    (images, target), validation, test = (_loaded(folder, name) for name in ("train", "val", "test"))
    chosen = zip(SPLITS, torch.arange(len(images)).split(list(SPLITS.values())), strict=True)
    found = {name: (images[which], {task: value[which] for task, value in target.items()}) for name, which in chosen}
    return {**found, "validation": validation, "test": test}


def _loaded(folder: Path, name: str) -> Part:
    """A part of the file, which is in random order. Pixels lie in -2..2."""
    with np.load(folder / "pets600_96.npz") as found:
        images = torch.from_numpy(found[f"{name}_x"]).permute(0, 3, 1, 2).float().div(63.75).sub(2)
        classes = {task: torch.from_numpy(found[f"{name}_{task}"]).long() for task in ("trimap", "breed")}
        return images.contiguous(), {**classes, "box": torch.from_numpy(found[f"{name}_box"])}


def placed(images: Tensor, target: dict[str, Tensor], scale: Tensor, shift: Tensor) -> Part:
    """Pixel u of the result, from -1 to 1 in x and y, is pixel `scale * u + shift` of the image; both are [N, 2].

    A negative scale mirrors. Boxes go along, and end where the image does.
    """
    grid = functional.affine_grid(
        torch.cat([torch.diag_embed(scale), shift[:, :, None]], 2), list(images.shape), align_corners=False
    )
    seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    trimap = target["trimap"][:, None].float()
    trimap = functional.grid_sample(trimap, grid, mode="nearest", padding_mode="border", align_corners=False)
    corners = (2 * target["box"].view(-1, 2, 2) - 1 - shift[:, None]) / scale[:, None]
    corners = (corners / 2 + 0.5).clamp(0, 1)
    box = torch.cat([corners.amin(1), corners.amax(1)], 1)
    return seen, {**target, "trimap": trimap[:, 0].long(), "box": box}


def augmented(images: Tensor, target: dict[str, Tensor]) -> Part:
    """Each image zoomed, shifted, mirrored or not, brighter or darker, with more or less contrast."""
    count = len(images)
    scale = torch.empty(count, 2).uniform_(0.7, 1.1)
    scale[:, 0] *= torch.randint(0, 2, (count,)) * 2 - 1
    shift = torch.empty(count, 2).uniform_(-0.2, 0.2)
    contrast, brightness = (torch.empty(2, count, 1, 1, 1).uniform_(-0.3, 0.3)).unbind()
    return placed(images * (1 + contrast) + brightness, target, scale, shift)


def overlap(output: Tensor, target: Tensor) -> float:
    """Mean intersection over union of boxes [N, 4]."""
    low, high = torch.maximum(output[:, :2], target[:, :2]), torch.minimum(output[:, 2:], target[:, 2:])
    inside = (high - low).clamp(min=0).prod(1)
    areas = sum((box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (output, target))
    return float((inside / (areas - inside).clamp(min=1e-9)).double().mean())
