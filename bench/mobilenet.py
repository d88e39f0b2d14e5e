"""MobileNetV3-Large (Howard et al. 2019, table 1) in layers of torch.nn: inverted residuals, gates, hard swishes."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["mobilenet_v3_large"]

# kernel, expansion, outputs, gated, hard swish, stride
_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class _Gate(nn.Module):
    """Squeeze and excitation: every channel by a factor of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(8, (width // 4 + 4) // 8 * 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.excite = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)
        self.relu, self.gate = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(self.relu(self.squeeze(self.pool(x)))))


class _Block(nn.Module):
    def __init__(
        self, inputs: int, kernel: int, wide: int, outputs: int, gated: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()
        act = nn.Hardswish if swish else nn.ReLU
        layers = [*_conv(inputs, wide, 1), act()] if wide != inputs else []
        layers += [*_conv(wide, wide, kernel, stride, wide), act(), *([_Gate(wide)] if gated else [])]
        self.layers = nn.Sequential(*layers, *_conv(wide, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        return x + out if self.adds else out


def mobilenet_v3_large(classes: int = 1000) -> nn.Sequential:
    """The network for inputs [N, 3, 224, 224]."""
    layers: list[nn.Module] = [*_conv(3, 16, 3, 2), nn.Hardswish()]
    width = 16
    for kernel, wide, outputs, gated, swish, stride in _BLOCKS:
        layers.append(_Block(width, kernel, wide, outputs, gated, swish, stride))
        width = outputs
    layers += [*_conv(width, 960, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, classes))
