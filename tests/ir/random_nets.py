"""Random small networks over the ops of ordinary CNNs: every draw of integers gives one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 8


class Draw:
    """An endless stream of choices from a list of integers, so that hypothesis can shrink a network."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers, self.at = numbers or [0], 0

    def below(self, limit: int) -> int:
        value = self.numbers[self.at % len(self.numbers)] + self.at // len(self.numbers)
        self.at += 1
        return value % limit

    def of(self, *choices: object) -> object:
        return choices[self.below(len(choices))]


class RandomNet(nn.Module):
    """`steps` take the list of live values [N, c, h, w] and append one."""

    def __init__(self, numbers: list[int], length: int) -> None:
        super().__init__()
        self.draw, self.steps = Draw(numbers), []
        self.parts = nn.ModuleList()
        self.scales = nn.ParameterList()
        self.widths: list[tuple[int, int]] = []
        self._push(*self._conv(3, SIZE))
        self.steps[0] = (self.steps[0][0], 0)
        for _ in range(length):
            kind = STEPS[self.draw.below(len(STEPS))]
            made = kind(self, *self._pick())
            if made is not None:
                self._push(*made)
        self.head = nn.Conv2d(sum(c for c, s in self.widths[-3:] if s == self.widths[-1][1]), 5, 1)
        self.tail = nn.Linear(self.widths[-1][0], 4)

    def _pick(self) -> tuple[int, int, int]:
        at = len(self.widths) - 1 - self.draw.below(min(3, len(self.widths)))
        return (at, *self.widths[at])

    def _push(self, step: Callable[[list[Tensor]], Tensor], width: int, size: int) -> None:
        self.steps.append((step, len(self.steps)))
        self.widths.append((width, size))

    def add(self, module: nn.Module) -> nn.Module:
        self.parts.append(module)
        return module

    def _conv(self, channels: int, size: int, at: int = -1):
        width = 4 * (1 + self.draw.below(4))
        layer = self.add(nn.Conv2d(channels, width, 3, padding=1, bias=bool(self.draw.below(2))))
        norm = self.add(nn.BatchNorm2d(width)) if self.draw.below(2) else nn.Identity()
        act = self.draw.of(F.leaky_relu, torch.sigmoid, F.silu, torch.tanh)
        return lambda live: act(norm(layer(live[at]))), width, size

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        live = [x]
        for step, at in self.steps:
            live.append(step(live))
            if at == 0:
                live.pop(0)
        same = [v for v, (_, s) in zip(live[-3:], self.widths[-3:], strict=True) if s == self.widths[-1][1]]
        return {"map": self.head(torch.cat(same, 1)), "vector": self.tail(live[-1].mean((2, 3)))}


def conv(net, at, c, s):
    return net._conv(c, s, at)


def add(net, at, c, s):
    layer = net.add(nn.Conv2d(c, c, 1))
    return lambda live: live[at] + F.leaky_relu(layer(live[at])), c, s


def add_any(net, at, c, s):
    other = next((i for i, w in enumerate(net.widths) if w == (c, s) and i != at), None)
    if other is None:
        return None
    op = net.draw.of(torch.add, torch.mul, torch.sub, torch.maximum)
    return lambda live: op(live[at], live[other]), c, s


def cat(net, at, c, s):
    other = net.draw.below(len(net.widths))
    if net.widths[other][1] != s or c + net.widths[other][0] > 48:
        return None
    return lambda live: torch.cat([live[at], live[other]], 1), c + net.widths[other][0], s


def chunk(net, at, c, s):
    parts, which = (2, net.draw.below(2))
    if c % 2:
        return None
    return lambda live: list(live[at].chunk(parts, 1))[which], c // 2, s


def chunk_add(net, at, c, s):
    if c % 2:
        return None

    def step(live):
        a, b = live[at].chunk(2, 1)
        return a * torch.sigmoid(b)

    return step, c // 2, s


def split(net, at, c, s):
    first = c // 4
    if not first:
        return None
    layer = net.add(nn.Conv2d(first, first, 3, padding=1))

    def step(live):
        a, b = live[at].split([first, c - first], dim=1)
        return torch.cat([layer(a), b], 1)

    return step, c, s


def sliced(net, at, c, s):
    kind = net.draw.below(4)
    index = [slice(1, None), slice(None, -1), slice(0, None, 2), slice(-3, None)][kind]
    width = len(range(c)[index])
    if not width:
        return None
    layer = net.add(nn.Conv2d(width, 4, 1))
    return lambda live: layer(live[at][:, index]), 4, s


def depthwise(net, at, c, s):
    m = 1 + net.draw.below(2)
    if c * m > 48:
        m = 1
    layer = net.add(nn.Conv2d(c, c * m, 3, padding=1, groups=c))
    return lambda live: layer(live[at]), c * m, s


def grouped(net, at, c, s):
    groups = 2 if c % 2 == 0 else 1
    layer = net.add(nn.Conv2d(c, 8, 3, padding=1, groups=groups))
    return lambda live: F.leaky_relu(layer(live[at])), 8, s


def transposed(net, at, c, s):
    groups = [1, 2 if c % 2 == 0 else 1, c][net.draw.below(3)]
    width = c if groups == c else 8
    layer = net.add(nn.ConvTranspose2d(c, width, 3, padding=1, groups=groups))
    return lambda live: layer(live[at]), width, s


def squeeze_excite(net, at, c, s):
    if net.draw.below(2):
        down, up = net.add(nn.Conv2d(c, 4, 1)), net.add(nn.Conv2d(4, c, 1))
        return lambda live: live[at] * torch.sigmoid(up(F.gelu(down(F.adaptive_avg_pool2d(live[at], 1))))), c, s
    down, up = net.add(nn.Linear(c, 4)), net.add(nn.Linear(4, c))

    def step(live):
        x = live[at]
        b, k = x.shape[:2]
        return x * torch.sigmoid(up(F.gelu(down(x.mean((2, 3)))))).view(b, k, 1, 1)

    return step, c, s


def shuffle(net, at, c, s):
    groups = 2

    def step(live):
        x = live[at]
        b, k, h, w = x.size()
        return x.view(b, groups, k // groups, h, w).transpose(1, 2).reshape(b, k, h, w)

    return (step, c, s) if c % groups == 0 else None


def scale(net, at, c, s):
    shape = [(1, c, 1, 1), (c, 1, 1), (c,)][net.draw.below(3)]
    net.scales.append(nn.Parameter(torch.rand(shape) + 0.5))
    which = len(net.scales) - 1
    return lambda live: live[at] * net.scales[which].view(1, -1, 1, 1), c, s


def pool(net, at, c, s):
    if s < 4:
        return None
    return lambda live: F.max_pool2d(live[at], 2), c, s // 2


def upsample(net, at, c, s):
    if s > SIZE // 2:
        return None
    return lambda live: F.interpolate(live[at], scale_factor=2, mode="nearest"), c, s * 2


def option_a(net, at, c, s):
    layer = net.add(nn.Conv2d(c, c + 4, 3, padding=1))
    return lambda live: layer(live[at]) + F.pad(live[at], (0, 0, 0, 0, 2, 2)), c + 4, s


def mask(net, at, c, s):
    layer = net.add(nn.Conv2d(c, 1, 1))
    return lambda live: live[at] * torch.sigmoid(layer(live[at])), c, s


def prelu(net, at, c, s):
    layer = net.add(nn.PReLU(c))
    return lambda live: layer(live[at]), c, s


def attention_over_channels(net, at, c, s):
    return lambda live: live[at] * live[at].softmax(1), c, s


def flatten_linear(net, at, c, s):
    first, second = net.add(nn.Linear(c * s * s, 12)), net.add(nn.Linear(12, c * s * s))

    def step(live):
        b = live[at].shape[0]
        return second(F.gelu(first(live[at].flatten(1)))).view(b, c, s, s)

    return step, c, s


def pixel_shuffle(net, at, c, s):
    layer = net.add(nn.Conv2d(c, 8, 1))
    return lambda live: F.avg_pool2d(F.pixel_shuffle(layer(live[at]), 2), 2), 2, s


def scaled_by_width(net, at, c, s):
    return lambda live: live[at] / live[at].shape[1] ** 0.5, c, s


def shared(net, at, c, s):
    layer = net.add(nn.Conv2d(c, c, 3, padding=1))
    return lambda live: layer(F.leaky_relu(layer(live[at]))), c, s


STEPS = [
    conv,
    conv,
    add,
    add_any,
    cat,
    chunk,
    chunk_add,
    split,
    sliced,
    depthwise,
    grouped,
    transposed,
    squeeze_excite,
    shuffle,
    scale,
    pool,
    upsample,
    option_a,
    mask,
    prelu,
    attention_over_channels,
    flatten_linear,
    pixel_shuffle,
    scaled_by_width,
    shared,
]


def random_net(numbers: list[int], length: int) -> RandomNet:
    """A network with random weights of unit scale and randomised BatchNorm statistics."""
    torch.manual_seed(sum(numbers) + length)
    net = RandomNet(numbers, length)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
        elif hasattr(module, "weight") and isinstance(module.weight, nn.Parameter) and module.weight.ndim > 1:
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
    return net.eval()
