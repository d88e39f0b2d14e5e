"""A residual network for faces of 48x48 gray pixels: five landmarks, gender, smile, glasses and head pose (MTFL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CLASSES", "FaceNet", "flipped"]

CLASSES = {"gender": 2, "smile": 2, "glasses": 2, "pose": 5}
MIRRORED = (1, 0, 2, 4, 3)
"""Where the eyes, the nose and the corners of the mouth are in the mirror, by their place in the image."""


class _Block(nn.Module):
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


def flipped(images: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mirror images of [N, 1, 48, 48] and what they show: eyes, corners of the mouth and poses change sides."""
    points = target["landmarks"].view(-1, 5, 2)[:, MIRRORED] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    pose = CLASSES["pose"] - 1 - target["pose"]
    return images.flip(3), {**target, "landmarks": points.flatten(1), "pose": pose}
