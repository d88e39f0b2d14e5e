"""Small networks of the kinds that people prune: U-Net, C2f with a Detect head, MobileNetV3. Inputs [N, 3, H, W]."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Detector", "MobileNetV3", "UNet", "settled"]


class DoubleConv(nn.Module):
    """Two convolutions with BatchNorm and ReLU."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for first in (width_in, width):
            layers += [nn.Conv2d(first, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.double_conv(x)
        return out


class UNet(nn.Module):
    """Three levels down by max pooling, up by transposed convolutions; skips are padded to size and concatenated."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        wide = [width, 2 * width, 4 * width]
        self.inc = DoubleConv(3, wide[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), DoubleConv(a, 2 * a)) for a in wide[:2])
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, a // 2, 2, stride=2) for a in (wide[2], wide[1]))
        self.merge = nn.ModuleList(DoubleConv(a, a // 2) for a in (wide[2], wide[1]))
        self.outc = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        skips = [self.inc(image)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x, skip = up(x), skips.pop()
            high, wide = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
            x = F.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
            x = merge(torch.cat([skip, x], dim=1))
        out: Tensor = self.outc(x)
        return out


class Conv(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, width_in: int, width: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class Bottleneck(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1 = Conv(width, width, 3)
        self.cv2 = Conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.cv2(self.cv1(x))
        return out


class C2f(nn.Module):
    """Half of the channels through bottlenecks; every step is concatenated."""

    def __init__(self, width: int, repeats: int) -> None:
        super().__init__()
        self.cv1 = Conv(width, width)
        self.cv2 = Conv((2 + repeats) * width // 2, width)
        self.m = nn.ModuleList(Bottleneck(width // 2) for _ in range(repeats))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        parts.extend(m(parts[-1]) for m in self.m)
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


class SPPF(nn.Module):
    """Max pooling three times over, concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1 = Conv(width, width // 2)
        self.cv2 = Conv(2 * width, width)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


class Detect(nn.Module):
    """Per level a tower for distributions over `bins` distances and one for classes; boxes [N, 4, cells] in cells."""

    project: Tensor

    def __init__(self, widths: tuple[int, ...], classes: int, bins: int) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        self.cv2 = nn.ModuleList(nn.Sequential(Conv(w, 8, 3), nn.Conv2d(8, 4 * bins, 1)) for w in widths)
        self.cv3 = nn.ModuleList(nn.Sequential(Conv(w, 8, 3), nn.Conv2d(8, classes, 1)) for w in widths)
        self.register_buffer("project", torch.arange(float(bins)))

    def forward(self, levels: list[Tensor]) -> dict[str, Any]:
        maps = [torch.cat((box(x), kind(x)), 1) for box, kind, x in zip(self.cv2, self.cv3, levels, strict=True)]
        flat = torch.cat([m.view(m.shape[0], 4 * self.bins + self.classes, -1) for m in maps], 2)
        box, kind = torch.split(flat, [4 * self.bins, self.classes], 1)
        n, _, cells = box.shape
        chances = box.view(n, 4, self.bins, cells).softmax(2)
        distances = (chances * self.project.view(1, 1, -1, 1)).sum(2)
        before, after = distances.chunk(2, 1)
        boxes = torch.cat(((after - before) / 2, after + before), 1)
        return {"boxes": boxes, "scores": kind.sigmoid(), "maps": maps}


class Detector(nn.Module):
    """A stem, C2f stages, SPPF, a top-down path, and Detect on two levels."""

    def __init__(self, width: int = 8, classes: int = 3, bins: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv(3, width, 3, 2), Conv(width, 2 * width, 3, 2))
        self.stage1 = C2f(2 * width, 2)
        self.down = Conv(2 * width, 4 * width, 3, 2)
        self.stage2 = nn.Sequential(C2f(4 * width, 1), SPPF(4 * width))
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral = Conv(6 * width, 2 * width)
        self.neck = C2f(2 * width, 1)
        self.detect = Detect((2 * width, 4 * width), classes, bins)

    def forward(self, image: Tensor) -> dict[str, Any]:
        fine = self.stage1(self.stem(image))
        coarse = self.stage2(self.down(fine))
        fine = self.neck(self.lateral(torch.cat((self.upsample(coarse), fine), 1)))
        out: dict[str, Any] = self.detect([fine, coarse])
        return out


class SqueezeExcitation(nn.Module):
    """A gate per channel from its mean: ReLU inside, hardsigmoid at the end."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        out: Tensor = self.scale_activation(scale) * x
        return out


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, gate, projection; beside the identity where the shape stays."""

    def __init__(self, width_in: int, expanded: int, width: int, stride: int, gated: bool, hard: bool) -> None:
        super().__init__()
        self.residual = stride == 1 and width_in == width
        act: type[nn.Module] = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != width_in:
            layers += [_normalised(width_in, expanded, 1, act=act)]
        layers += [_normalised(expanded, expanded, 3, stride, expanded, act)]
        if gated:
            layers += [SqueezeExcitation(expanded, max(4, expanded // 4))]
        self.block = nn.Sequential(*layers, _normalised(expanded, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out + x if self.residual else out


def _normalised(
    width_in: int, width: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Sequential:
    conv = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(width, eps=0.001, momentum=0.01)
    return nn.Sequential(conv, norm, *([act()] if act is not None else []))


class MobileNetV3(nn.Module):
    """Inverted residuals, gated and with hardswish, and a classifier with dropout."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _normalised(3, 8, 3, 2, act=nn.Hardswish),
            InvertedResidual(8, 8, 8, 1, True, False),
            InvertedResidual(8, 24, 12, 2, False, False),
            InvertedResidual(12, 36, 12, 1, True, True),
            _normalised(12, 48, 1, act=nn.Hardswish),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(48, 64), nn.Hardswish(), nn.Dropout(p=0.2), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        out: Tensor = self.classifier(torch.flatten(x, 1))
        return out


def settled(model: nn.Module) -> nn.Module:
    """Statistics as of a network that was trained, seeded, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()
