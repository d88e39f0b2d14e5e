"""Two tasks on one network: which digit is it (`digit`), and how did it look without the noise (`denoise`)?

The images are scikit-learn's handwritten digits, 1797 of 8x8 pixels, which come inside its wheel. This file
is ordinary PyTorch and imports nothing of pagcp: it is what a user brings.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

SPLITS = {"train": 697, "calibration": 300, "validation": 250, "test": 550}
NOISE = 0.1
"""Standard deviation of the noise; pixels of clean images lie in 0..1."""


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    """x + f(x): its last convolution and whatever made x have to keep the same channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(x + self.second(self.first(x)))
        return y


class Encoder(nn.Module):
    """[N, 1, 8, 8] -> features [N, 2 * width, 4, 4] for both heads, and detail [N, width / 2, 8, 8]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = conv(1, width // 2)
        self.down = conv(width // 2, width, stride=2)
        self.block = Residual(width)
        self.deep = conv(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        detail = self.stem(x)
        y = self.block(self.down(detail))
        return torch.cat([y, self.deep(y)], 1), detail


class DigitHead(nn.Module):
    """Features -> logits [N, 10]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.hidden = nn.Linear(2 * width * 4, width)
        self.act = nn.SiLU()
        self.logits = nn.Linear(width, 10)

    def forward(self, features: Tensor) -> Tensor:
        y: Tensor = self.logits(self.act(self.hidden(self.pool(features).flatten(1))))
        return y


class DenoiseHead(nn.Module):
    """Features and detail -> the clean image [N, 1, 8, 8]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fuse = conv(2 * width, width)
        self.up = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.act = nn.PReLU(width // 2)
        self.refine = conv(width, width // 2)
        self.image = nn.Conv2d(width // 2, 1, 3, padding=1)

    def forward(self, features: Tensor, detail: Tensor) -> Tensor:
        up = self.act(self.up(self.fuse(features)))
        y: Tensor = self.image(self.refine(torch.cat([up, detail], 1)))
        return y


class DigitsNet(nn.Module):
    """One encoder, two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.digit = DigitHead(width)
        self.denoise = DenoiseHead(width)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features, detail = self.encoder(x)
        return {"digit": self.digit(features), "denoise": self.denoise(features, detail)}


def build(width: int = 48) -> nn.Module:
    """The untrained network; `width` is even."""
    return DigitsNet(width)


Target = dict[str, Tensor]


class NoisyDigits(Dataset[tuple[Tensor, Target]]):
    """(noisy image, {"digit": label, "denoise": clean image}); sample i is the same whenever it is read."""

    def __init__(self, images: Tensor, labels: Tensor, noise: float, seed: int, copies: int = 1) -> None:
        """images [n, 1, 8, 8], labels [n]; every image occurs `copies` times, each time with other noise."""
        self.clean = images.repeat(copies, 1, 1, 1)
        self.labels = labels.repeat(copies)
        generator = torch.Generator().manual_seed(seed)
        self.noisy = self.clean + noise * torch.randn(self.clean.shape, generator=generator)

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.noisy[index], {"digit": self.labels[index], "denoise": self.clean[index]}


def datasets(seed: int = 0, noise: float = NOISE, copies: int = 8) -> dict[str, NoisyDigits]:
    """The four splits, pairwise disjoint.

    `seed` draws the noise only. Which image is in which split never changes: the committed weights have seen
    "train", and would be measured too kindly on a test split that holds some of it. An epoch of "train" shows
    each image `copies` times under different noise.
    """
    from sklearn.datasets import load_digits  # here, so that `build` needs nothing but torch

    found = load_digits()
    images = torch.from_numpy(found.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(found.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0, *SPLITS.values()]).cumsum(0).tolist()
    parts = dict(zip(SPLITS, pairwise(ends), strict=True))
    return {
        name: NoisyDigits(
            images[order[start:end]],
            labels[order[start:end]],
            noise,
            seed=4 * seed + number,
            copies=copies if name == "train" else 1,
        )
        for number, (name, (start, end)) in enumerate(parts.items())
    }
