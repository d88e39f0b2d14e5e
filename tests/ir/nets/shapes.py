"""Kinds that give values other shapes: flatten, views, shuffles, pads, expand and repeat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ir.nets.net import Kind, Live, Net


def flatten_linear(n: Net) -> None:
    x = n.map(small=True)
    layer = n.add(nn.Linear(x.c * x.area, n.width()))
    flat = n.add(nn.Flatten())
    how = n.of(
        lambda t: t.flatten(1),
        flat,
        lambda t: t.contiguous().view(t.shape[0], -1),
        lambda t: t.reshape(t.size(0), x.c * x.h * x.w),
        lambda t: torch.flatten(t.permute(0, 2, 3, 1), 1),
        lambda t: t.contiguous().view(-1, x.c * x.area),
    )
    n.push(lambda t: layer(n.seen(how(t))), x, Live("vec", layer.out_features))


def linear_to_conv(n: Net) -> None:
    x, c = n.vec(), n.width(2)
    h, w = n.of((4, 2), (2, 2))
    layer, unflatten = n.add(nn.Linear(x.c, c * h * w)), n.add(nn.Unflatten(1, (c, h, w)))
    how = n.of(
        lambda t: t.view(-1, c, h, w),
        lambda t: t.unflatten(1, (c, h, w)),
        unflatten,
        lambda t: t.reshape(t.shape[0], c, h, w),
        lambda t: t.view(t.shape[0], h, w, c).permute(0, 3, 1, 2),
    )
    n.push(lambda t: how(layer(t)), x, Live("map", c, h, w))


def view_pairs(n: Net) -> None:
    x = n.map(multiple=2)
    dim = n.of(1, 2)

    def run(t: Tensor) -> Tensor:
        b, c, h, w = t.size()
        pairs = t.view(b, c // 2, 2, h, w) if dim == 2 else t.view(b, 2, x.c // 2, h, w)
        return pairs.sum(dim) if h > 2 else pairs.amax(dim)

    n.push(run, x, x.sized(c=x.c // 2))


def flatten_unflatten(n: Net) -> None:
    x = n.map(multiple=2)
    how = n.of(
        lambda t: t.flatten(2).unflatten(2, t.shape[2:]),
        lambda t: t.flatten(1).view(t.shape),
        lambda t: t.unflatten(1, (2, -1)).flatten(1, 2),
        lambda t: t.unflatten(1, (x.c // 2, 2)).transpose(1, 2).flatten(1, 2),
        lambda t: t.flatten(2).reshape(-1, x.c, *t.shape[2:]),
        lambda t: t.flatten(1, 2).view(t.shape[0], x.c, x.h, -1),
        lambda t: t.reshape_as(t.clone()),
    )
    n.push(how, x, x)


def pixel_shuffle(n: Net) -> None:
    x, layer = n.map(multiple=n.of(4, 8, 8), small=True), n.add(nn.PixelShuffle(2))
    n.push(n.of(layer, lambda t: F.pixel_shuffle(t, 2)), x, x.sized(c=x.c // 4, h=2 * x.h, w=2 * x.w))


def pixel_unshuffle(n: Net) -> None:
    x, layer = n.map(most=6, even=True), n.add(nn.PixelUnshuffle(2))
    n.push(n.of(layer, lambda t: F.pixel_unshuffle(t, 2)), x, x.sized(c=4 * x.c, h=x.h // 2, w=x.w // 2))


def channel_shuffle(n: Net) -> None:
    groups = n.of(2, 3, 4)
    x = n.map(multiple=groups)

    def by_views(t: Tensor) -> Tensor:
        b, c, h, w = t.size()
        return t.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)

    def static(t: Tensor) -> Tensor:
        y = t.reshape(-1, groups, x.c // groups, *t.shape[-2:])
        return torch.swapaxes(y, 1, 2).reshape(-1, x.c, *t.shape[-2:])

    n.push(n.of(by_views, static), x, x)


def channel_shuffle_module(n: Net) -> None:
    groups = n.of(2, 3)
    x, layer = n.map(multiple=2 * groups), n.add(nn.ChannelShuffle(groups))
    n.push(n.of(lambda t: layer(t), lambda t: torch.channel_shuffle(t, groups)), x, x)


def axes(n: Net) -> None:
    x = n.map()
    how = n.of(
        lambda t: t.unsqueeze(1).squeeze(1),
        lambda t: t.movedim(1, -1).permute(0, 3, 1, 2),
        lambda t: t.swapaxes(1, 2).transpose(2, 1),
        lambda t: t[:, :, None].squeeze(2),
        lambda t: t.unsqueeze(-1).flatten(3),
        lambda t: t.permute(1, 0, 2, 3).flip(0).transpose(0, 1),
    )
    n.push(how, x, x)


def option_a(n: Net) -> None:
    """A shortcut of fewer channels, padded with zeros before it is added."""
    x, before, after = n.map(), n.below(4), 1 + n.below(3)
    layer, c = n.add(nn.Conv2d(x.c, x.c + before + after, 3, padding=1)), x.c + before + after

    def zeros_beside(t: Tensor) -> Tensor:
        b, _, h, w = t.shape
        return torch.cat([torch.zeros(b, before, h, w), t, torch.zeros(b, after, h, w)], 1)

    how = n.of(
        lambda t: F.pad(t, (0, 0, 0, 0, before, after)),
        lambda t: F.pad(t, [0, 0, 0, 0, before, after], "constant", 0),
        lambda t: F.pad(t, pad=(0, 0, 0, 0, before, after), value=0.0),
        lambda t: F.pad(F.pad(t, (1, 1, 1, 1, before, 0))[:, :, 1:-1, 1:-1], (0, 0, 0, 0, 0, after)),
        zeros_beside,
    )
    join = n.of(torch.add, torch.sub, torch.mul, torch.maximum)
    n.push(lambda t: join(layer(t), n.seen(how(t))), x, x.sized(c=c))


def pad_value(n: Net) -> None:
    x, k, value = n.map(), 1 + n.below(3), n.of(0.5, 1)
    n.push(lambda t: F.pad(t, (0, 0, 0, 0, 0, k), value=value), x, x.sized(c=x.c + k))


def pad_space(n: Net) -> None:
    x = n.map(even=True)
    layer, zero = n.add(nn.Conv2d(x.c, n.width(), 3)), n.add(nn.ZeroPad2d(1))
    reflect, value = n.add(nn.ReflectionPad2d(1)), n.add(nn.ConstantPad2d((1, 1, 1, 1), 0.5))
    how = n.of(
        zero,
        reflect,
        value,
        lambda t: F.pad(t, (1, 1, 1, 1), mode="replicate"),
        lambda t: F.pad(t, (1, 1, 1, 1), value=0.3),
        lambda t: F.pad(t, (2, 1, 1, 1))[..., 1:],
    )
    n.push(lambda t: layer(n.seen(how(t))), x, x.sized(c=layer.out_channels))


def expand(n: Net) -> None:
    x = n.map()
    how = n.of(
        lambda m, t: m.expand_as(t),
        lambda m, t: m.expand(-1, -1, t.shape[2], t.shape[3]),
        lambda m, t: m.expand(t.size()),
        lambda m, t: m.repeat(1, 1, t.shape[2], t.shape[3]),
        lambda m, t: m.expand(-1, x.c, *t.shape[2:]),
    )
    n.push(lambda t: t - how(F.adaptive_avg_pool2d(t, 1) / 2, t), x, x)


def repeat(n: Net) -> None:
    x = n.map(most=8)
    how = n.of(
        lambda t: t.repeat(1, 2, 1, 1),
        lambda t: t.repeat_interleave(2, dim=1),
        lambda t: torch.repeat_interleave(t, 3, 1),
        lambda t: t.tile((1, 2, 1, 1)),
        lambda t: t.unsqueeze(2).expand(-1, -1, 2, -1, -1).reshape(t.shape[0], -1, *t.shape[2:]),
        lambda t: t[:, :, None].repeat(1, 1, 2, 1, 1).flatten(1, 2),
    )
    n.push(how, x, x)
    n.measure()


SHAPES: dict[str, Kind] = {
    "flatten with space": flatten_linear,
    "linear to conv": linear_to_conv,
    "view in pairs": view_pairs,
    "flatten and unflatten": flatten_unflatten,
    "pixel shuffle": pixel_shuffle,
    "pixel unshuffle": pixel_unshuffle,
    "channel shuffle": channel_shuffle,
    "ChannelShuffle": channel_shuffle_module,
    "axes moved": axes,
    "option A": option_a,
    "pad channels with a value": pad_value,
    "pad space": pad_space,
    "expand over space": expand,
    "repeat channels": repeat,
}
