"""CIFAR ResNets with option A shortcuts (He et al. 2016, section 4.2): every other pixel, then channels of zeros."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["cifar_resnet"]


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.padding = stride, (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return torch.relu(out + x)


def cifar_resnet(depth: int, classes: int = 10, times: int = 1) -> nn.Sequential:
    """ResNet-`depth`, depth = 6n + 2, `times` as wide as published, for inputs [N, 3, 32, 32]."""
    width = 16 * times
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for stage, wide in enumerate((16 * times, 32 * times, 64 * times)):
        for block in range((depth - 2) // 6):
            layers.append(_Block(width, wide, 2 if stage and not block else 1))
            width = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
