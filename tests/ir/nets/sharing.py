"""Kinds where things are used twice or in one another: shared modules and weights, sub-modules, in-place writes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ir.nets.net import Kind, Net


def shared(n: Net) -> None:
    """One module called twice: on its own result, or on two values."""
    x = n.map()
    layer, act = n.add(nn.Conv2d(x.c, x.c, 3, padding=1)), n.act()
    if n.below(2):
        n.push(lambda t: layer(act(layer(t))), x, x)
        return
    y = n.like(x)
    norm = n.add(nn.BatchNorm2d(x.c))
    n.push(lambda a, b: torch.cat([norm(layer(a)), act(norm(layer(b)))], 1), (x, y), x.sized(c=2 * x.c))


def two_names(n: Net) -> None:
    """One module under two names, or one weight in two modules."""
    x = n.map()
    one = n.add(nn.Conv2d(x.c, x.c, 3, padding=1))
    if n.below(2):
        two = n.add(one)
    else:
        two = n.add(nn.Conv2d(x.c, x.c, 3, padding=1))
        two.weight = one.weight
    n.push(lambda t: two(F.leaky_relu(one(t))), x, x)


class Block(nn.Module):
    """A residual block of its own; `odd` branches on data: it cannot be traced and is kept whole."""

    def __init__(self, c: int, odd: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.BatchNorm2d(2 * c), nn.SiLU(), nn.Conv2d(2 * c, c, 1))
        self.layers = nn.ModuleDict({"last": nn.Conv2d(c, c, 3, padding=1)})
        self.odd = odd

    def forward(self, x: Tensor, scale: float = 1.0, *, shortcut: bool = True) -> Tensor:
        if self.odd and float(x.detach().abs().sum()) < 0:
            return x
        y = self.layers["last"](self.body(x))
        return x + scale * y if shortcut else y


def block(n: Net) -> None:
    x = n.map()
    made = n.add(Block(x.c, odd=n.below(8) == 0))
    n.push(n.of(lambda t: made(t), lambda t: made(t, 0.5), lambda t: made(t, shortcut=False)), x, x)


def in_place(n: Net) -> None:
    """Writes into a value that a convolution has just made, also through views of it."""
    x = n.map(multiple=2)
    layer, relu, offset = n.add(nn.Conv2d(x.c, x.c, 3, padding=1)), n.add(nn.ELU(inplace=True)), n.below(2)

    def add_twice(t: Tensor) -> Tensor:
        y = layer(t)
        y += t
        y *= 0.5
        return y

    def view_of_it(t: Tensor) -> Tensor:
        y = layer(t)
        z = y.view(t.shape[0], -1, *t.shape[2:])
        y.add_(1)
        return torch.cat([y, z], 1)[:, : x.c]

    def slice_of_it(t: Tensor) -> Tensor:
        y = layer(t)
        half = y[:, : x.c // 2]
        half.mul_(2)
        return y

    def chunk_of_it(t: Tensor) -> Tensor:
        a, b = layer(t).chunk(2, 1)
        a.sigmoid_()
        return torch.cat([a, b], 1)

    def steps_of_it(t: Tensor) -> Tensor:
        y = layer(t)
        y[:, offset::2].mul_(2)
        return y

    def items_of_it(t: Tensor) -> Tensor:
        y = layer(t)
        y[:, : x.c // 2] = t[:, : x.c // 2]
        y[..., 0] = 0.5
        y[:, offset::2] += 1
        return y

    n.push(
        n.of(
            *(add_twice, view_of_it, slice_of_it, chunk_of_it, steps_of_it, items_of_it),
            *(lambda t: relu(layer(t)), lambda t: F.leaky_relu(layer(t), 0.1, inplace=True)),
            *(lambda t: layer(t).tanh_(), lambda t: layer(t).clone().mul_(2), lambda t: layer(t).clamp_(-1, 1)),
            lambda t: layer(t).sub_(t).div_(2),
        ),
        x,
        x,
    )


SHARING: dict[str, Kind] = {
    "shared module": shared,
    "module under two names": two_names,
    "block of its own": block,
    "in place": in_place,
}
