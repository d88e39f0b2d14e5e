"""Networks that the exporters are tested on: each has a shape of graph that people write."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.trace import trace


class Residual(nn.Module):
    """A block whose output is added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class Multitask(nn.Module):
    """A stem, residual blocks, a concatenated skip, and two heads in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList([Residual(8), Residual(8)])
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, 10)
        self.denoise = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Any]:
        skip = x = self.stem(image)
        for block in self.blocks:
            x = block(x)
        both = torch.cat([x, skip], dim=1)
        pooled = both.mean(dim=(2, 3))
        return {"digit": self.fc(self.drop(pooled)), "denoise": self.denoise(both)}


class SqueezeExcite(nn.Module):
    """Depthwise separable convolution with a squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(12, 4, 1)
        self.restore = nn.Conv2d(4, 12, 1)
        self.act = nn.PReLU(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.depthwise(F.hardswish(self.expand(x))))
        gate = self.restore(F.relu(self.reduce(self.squeeze(x))))
        x = x * torch.sigmoid(gate)
        return x[:, :, ::2, 1:].flatten(2) / math.sqrt(2.0)


class Decoder(nn.Module):
    """Linear, view, transposed convolutions, a bare parameter and two buffers, one not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 8 * 4)
        self.up = nn.ModuleDict({"first": nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)})
        self.out = nn.ConvTranspose2d(6, 2, 3, padding=(1, 0), output_padding=0, bias=False)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 6).view(6, 1, 1))
        self.register_buffer("mean", torch.tensor([0.1, -0.2]).view(2, 1, 1))
        self.register_buffer("offset", torch.arange(6.0).view(1, 6, 1, 1), persistent=False)
        self.scales = nn.ParameterList([torch.ones(1), torch.full((1,), 2.0)])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        b = z.shape[0]
        y = self.fc(z).view(b, -1, 2, 2)
        y = F.leaky_relu(self.up["first"](y) * self.gain + self.offset, 0.1)
        y = F.interpolate(y, scale_factor=2, mode="nearest")
        return -((self.out(y) - self.mean) ** 2) * self.scales[1], None


class C2f(nn.Module):
    """`list(x.chunk(2, 1))`, extended by what each bottleneck makes of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1 = nn.Conv2d(3, 8, 1)
        self.cv2 = nn.Conv2d(16, 5, 1)
        self.m = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.SiLU(inplace=True)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        out = self.cv2(torch.cat(y, 1))
        n, c, h, w = out.shape
        return [out.reshape(n, c, h * w).softmax(-1), F.max_pool2d(out, 2)]


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "multitask": (Multitask, (1, 1, 8, 8)),
    "squeeze_excite": (SqueezeExcite, (1, 3, 6, 6)),
    "decoder": (Decoder, (1, 6)),
    "c2f": (C2f, (1, 3, 6, 6)),
}


def build(name: str) -> nn.Module:
    """A network with seeded weights and non-trivial BatchNorm statistics, in eval mode."""
    torch.manual_seed(0)
    model = NETS[name][0]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


def program(name: str) -> Program:
    """The network of that name, traced."""
    model = build(name)
    traced = trace(model, [TensorSpec(NETS[name][1])])
    traced.module.meta["name"] = type(model).__name__
    return traced
