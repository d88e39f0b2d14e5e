"""Kinds that work position by position: ties, broadcasts, masks, reductions, sizes as values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.ir.nets.net import Kind, Net


def residual(n: Net) -> None:
    x = n.map()
    layer, act = n.add(nn.Conv2d(x.c, x.c, 3, padding=1)), n.act()
    n.push(n.of(lambda t: t + act(layer(t)), lambda t: t.add(layer(act(t))), lambda t: layer(t) - t), x, x)


def two_values(n: Net) -> None:
    x = n.map()
    y = n.like(x)
    how = n.of(
        *(torch.add, torch.mul, torch.sub, torch.maximum, torch.min, torch.atan2),
        lambda a, b: torch.where(a > 0, a, b),
        lambda a, b: torch.lerp(a, b, 0.3),
        lambda a, b: a / (b.abs() + 1),
        lambda a, b: torch.addcmul(a, b, b, value=0.5),
        lambda a, b: a.masked_fill(b > 0.5, 0.1),
        lambda a, b: torch.stack([a, b]).mean(0),
        lambda a, b: sum([a, b, a]),
    )
    n.push(how, (x, y), x)


def squeeze_excite(n: Net) -> None:
    x, act = n.map(), n.act()
    down, up = n.add(nn.Conv2d(x.c, 4, 1)), n.add(nn.Conv2d(4, x.c, 1))
    n.push(lambda t: t * torch.sigmoid(up(act(down(F.adaptive_avg_pool2d(t, 1))))), x, x)


def squeeze_excite_linear(n: Net) -> None:
    x, act = n.map(), n.act()
    down, up, pool = n.add(nn.Linear(x.c, 4)), n.add(nn.Linear(4, x.c)), n.add(nn.AdaptiveAvgPool2d(1))
    shape = n.of(
        lambda g, t: g.view(t.shape[0], t.shape[1], 1, 1),
        lambda g, t: g.view(-1, x.c, 1, 1),
        lambda g, t: g[:, :, None, None].expand_as(t),
        lambda g, t: g.unsqueeze(-1).unsqueeze(-1),
        lambda g, t: g.reshape(t.size(0), -1, 1, 1),
    )
    squeeze = n.of(lambda t: pool(t).flatten(1), lambda t: t.mean((2, 3)), lambda t: pool(t).view(-1, x.c))
    n.push(lambda t: t * shape(torch.sigmoid(up(act(down(squeeze(t))))), t), x, x)


def channel_attention_1d(n: Net) -> None:
    """ECA: a convolution along the channels, which all have to stay."""
    x = n.map()
    layer = n.add(nn.Conv1d(1, 1, 3, padding=1, bias=False))
    n.push(lambda t: t * torch.sigmoid(layer(t.mean((2, 3)).unsqueeze(1))).transpose(1, 2).unsqueeze(-1), x, x)


def mask(n: Net) -> None:
    """One channel of weights per position, for all channels."""
    x = n.map()
    layer = n.add(nn.Conv2d(x.c, 1, 1))
    how = n.of(
        lambda m, t: m,
        lambda m, t: m.expand_as(t),
        lambda m, t: m.expand(-1, t.shape[1], -1, -1),
        lambda m, t: m.repeat(1, x.c, 1, 1),
        lambda m, t: m.repeat(1, t.size(1), 1, 1),
        lambda m, t: m.expand(-1, x.c, -1, -1),
    )
    n.push(lambda t: t * how(torch.sigmoid(layer(t)), t), x, x)


def mask_of_statistics(n: Net) -> None:
    """CBAM: mean and maximum over channels, which all have to stay."""
    x = n.map()
    layer = n.add(nn.Conv2d(2, 1, 3, padding=1))
    n.push(lambda t: t * torch.sigmoid(layer(torch.cat([t.mean(1, keepdim=True), t.max(1, keepdim=True)[0]], 1))), x, x)


def scale(n: Net) -> None:
    """A parameter or buffer per channel in any shape that broadcasts."""
    x = n.map()
    shape = n.of((x.c,), (1, x.c, 1, 1), (x.c, 1, 1), (1, x.c))
    made = n.param(*shape, mean=1, std=0.3) if n.below(3) else n.buffer(torch.rand(shape) + 0.5)
    if len(shape) < 3:
        read = n.of(lambda: made().view(1, -1, 1, 1), lambda: made().reshape(x.c, 1, 1), _indexed(made, len(shape)))
    else:
        read = made
    how = n.of(lambda t: t * read(), lambda t: read() + t, lambda t: t - read().expand_as(t), lambda t: t.mul(read()))
    n.push(how, x, x)


def _indexed(made, ndim):
    return (lambda: made()[:, None, None]) if ndim == 1 else (lambda: made()[..., None, None])


def layer_scale(n: Net) -> None:
    x = n.map()
    layer, gamma = n.add(nn.Conv2d(x.c, x.c, 3, padding=1, groups=x.c)), n.param(x.c, 1, 1, std=0.5)
    n.push(lambda t: t + gamma() * F.gelu(layer(t)), x, x)


def scalar(n: Net) -> None:
    """Parameters that hold no channel: one number, or one per position."""
    x = n.map()
    one, place = n.param(1, mean=1, std=0.3), n.param(1, 1, x.h, x.w)
    whole, empty = n.param(1, x.c, x.h, x.w), n.param(mean=1, std=0.3)
    how = n.of(lambda t: t * one(), lambda t: t + place(), lambda t: t + whole(), lambda t: empty() * t)
    n.push(how, x, x)


def sizes(n: Net) -> None:
    """Channel counts and other sizes used as values."""
    x = n.map()
    how = n.of(
        lambda t: t / t.shape[1] ** 0.5 * 2,
        lambda t: t * (t.size(1) / t.size(2)) / 2,
        lambda t: t + t.shape[0] / t.shape[1],
        lambda t: t * (t.shape[1] // 2) * (1 / t.size()[1]),
        lambda t: t.mul(t.shape[-1] / (t.shape[-2] + t.shape[1])),
        lambda t: t.flatten(2).sum(-1)[..., None, None] / (t.shape[2] * t.shape[3]) + t,
        lambda t: t * (t.numel() / t.shape[0] / t[0, 0].numel() / 8),
        lambda t: t.pow(2) / len(t.shape) if t.dim() == 4 else t,
    )
    n.push(how, x, x)


def factories(n: Net) -> None:
    """Constants made in the shape of a value."""
    x = n.map()
    how = n.of(
        lambda t: t + torch.ones_like(t),
        lambda t: torch.zeros_like(t) - t,
        lambda t: t * t.new_ones(t.shape),
        lambda t: torch.cat([t, t.new_zeros(t.shape[0], t.shape[1], *t.shape[2:])], 1).sum(1, keepdim=True) + t,
        lambda t: t + torch.full_like(t, 0.5),
        lambda t: torch.where(t > 0, t, torch.zeros_like(t)) + 0.1 * t,
        lambda t: t * torch.ones(t.shape[1], 1, 1),
        lambda t: t + torch.arange(t.shape[2]).view(1, 1, -1, 1) / 8,
    )
    n.push(how, x, x)


def softmax_space(n: Net) -> None:
    x = n.map(even=True)
    how = n.of(
        lambda t: t.flatten(2).softmax(-1).view(t.shape) * (t.shape[2] * t.shape[3]),
        lambda t: F.softmax(t, dim=2) * 2,
        lambda t: torch.log_softmax(t, -1),
        lambda t: t.cumsum(3) / 2,
        lambda t: F.normalize(t, dim=2),
        lambda t: F.normalize(t.flatten(2), p=2.0, dim=-1).view_as(t),
    )
    n.push(how, x, x)


def softmax_channels(n: Net) -> None:
    x, layer = n.map(), n.add(nn.Softmax2d())
    how = n.of(
        lambda t: t.softmax(1),
        lambda t: layer(t),
        lambda t: F.softmax(t, dim=-3),
        lambda t: F.log_softmax(t, 1),
        lambda t: F.normalize(t, dim=1),
        lambda t: F.normalize(t),
        lambda t: t / (t.norm(dim=1, keepdim=True) + 0.1),
        lambda t: t / (t.norm(2, 1, keepdim=True) + 0.1),
        lambda t: t.cumsum(1) / 4,
    )
    n.push(lambda t: t + how(t), x, x)


def reduced_space(n: Net) -> None:
    x = n.map(even=True)
    how = n.of(
        lambda t: t - 0.5 * t.mean((2, 3), keepdim=True),
        lambda t: t - 0.5 * t.amax((-2, -1), True),
        lambda t: t / (t.std((2, 3), keepdim=True) + 0.5),
        lambda t: t - 0.5 * t.max(3, keepdim=True)[0],
        lambda t: (t > t.mean(dim=(2, 3), keepdim=True)).float() * t,
        lambda t: t + t.sum(dim=2, keepdim=True) / 4,
        lambda t: t * t.var(-1, keepdim=True).sqrt(),
    )
    n.push(how, x, x)


def reduced_channels(n: Net) -> None:
    x = n.map()
    how = n.of(
        lambda t: t.mean(1, keepdim=True),
        lambda t: t.amax(1, True),
        lambda t: t.sum(dim=-3, keepdim=True) / 4,
        lambda t: t.mean(1).unsqueeze(1),
        lambda t: torch.logsumexp(t, 1, keepdim=True),
    )
    n.push(lambda t: t - how(t), x, x)


def pool(n: Net) -> None:
    x = n.map(even=True)
    made = n.of(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.LPPool2d(2, 2))
    layer = n.add(made)
    how = n.of(lambda t: layer(t), lambda t: F.max_pool2d(t, 2), lambda t: F.avg_pool2d(t, 3, 2, 1))
    n.push(how, x, x.sized(h=x.h // 2, w=x.w // 2))


def resize(n: Net) -> None:
    x = n.map(small=True)
    layer = n.add(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    how = n.of(
        lambda t: layer(t),
        lambda t: F.interpolate(t, scale_factor=2),
        lambda t: F.interpolate(t, size=(t.shape[2] * 2, t.shape[3] * 2), mode="bilinear"),
        lambda t: t.repeat_interleave(2, 2).repeat_interleave(2, dim=3),
    )
    n.push(how, x, x.sized(h=2 * x.h, w=2 * x.w))


def unary(n: Net) -> None:
    x, act, drop = n.map(), n.act(), n.add(nn.Dropout(0.3))
    how = n.of(
        *(act, act, act),
        lambda t: drop(t) * 1.5 + 0.1,
        lambda t: F.dropout(t, 0.2, n.training),
        lambda t: (1 - t).exp() / 4 if t.shape[1] > 1 else t,
        lambda t: -t.square() * 0.5 + t,
        lambda t: t.contiguous().type_as(t).detach(),
        lambda t: torch.sqrt(t.abs() + 0.1),
        lambda t: 1 / (1 + t**2),
    )
    n.push(how, x, x)


POINTWISE: dict[str, Kind] = {
    "residual": residual,
    "elementwise of two values": two_values,
    "squeeze-excite": squeeze_excite,
    "squeeze-excite by linear": squeeze_excite_linear,
    "conv1d along the channels": channel_attention_1d,
    "mask of one channel": mask,
    "mask of statistics": mask_of_statistics,
    "parameter per channel": scale,
    "layer scale": layer_scale,
    "parameter without channels": scalar,
    "sizes as values": sizes,
    "factories": factories,
    "softmax over space": softmax_space,
    "softmax over channels": softmax_channels,
    "reduction over space": reduced_space,
    "reduction over channels": reduced_channels,
    "pool": pool,
    "resize": resize,
    "unary": unary,
}
