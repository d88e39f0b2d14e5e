"""Kinds with weights: convolutions, normalisations, functional calls, recurrent layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from tests.ir.nets.net import Kind, Net


def conv(n: Net) -> None:
    x = n.map(even=True)
    layer, act = n.of(n.add(nn.Conv2d(x.c, n.width(), 1)), *_kernels(n, x.c)), n.act()
    n.push(lambda t: act(layer(t)), x, x.sized(c=layer.out_channels))


def _kernels(n: Net, c: int) -> list[nn.Module]:
    return [
        n.add(nn.Conv2d(c, n.width(), 3, padding=2, dilation=2)),
        n.add(nn.Conv2d(c, n.width(), 3, padding="same", dilation=(2, 1))),
        n.add(nn.Conv2d(c, n.width(), (1, 3), padding=(0, 1), bias=False)),
        n.add(nn.Conv2d(c, n.width(), 3, padding=1, padding_mode="circular")),
    ]


def grouped(n: Net) -> None:
    groups = n.of(2, 2, 4)
    x, width = n.map(multiple=groups), n.width(groups)
    layer, act = n.add(nn.Conv2d(x.c, width, 3, padding=1, groups=groups, bias=bool(n.below(2)))), n.act()
    n.push(lambda t: act(layer(t)), x, x.sized(c=width))


def depthwise(n: Net) -> None:
    x, times = n.map(most=8), n.of(1, 2, 3)
    layer = n.add(nn.Conv2d(x.c, x.c * times, 3, padding=1, groups=x.c, bias=bool(n.below(2))))
    n.push(lambda t: F.leaky_relu(layer(t)), x, x.sized(c=x.c * times))


def transposed(n: Net) -> None:
    groups, stride = n.of(1, 2, 0), n.of(1, 2)
    x = n.map(multiple=max(groups, 1), most=8, small=True)
    groups = groups or x.c
    width = n.of(x.c, 2 * x.c) if groups == x.c else n.width(groups)
    layer = n.add(nn.ConvTranspose2d(x.c, width, 3, stride, 1, stride - 1, groups=groups, bias=bool(n.below(2))))
    n.push(lambda t: layer(t), x, x.sized(c=width, h=x.h * stride, w=x.w * stride))


def conv1d(n: Net) -> None:
    x, groups = n.map(multiple=2), n.of(1, 1, 2)
    width = n.width(groups)
    kind = n.of(nn.Conv1d, nn.ConvTranspose1d)
    layer = n.add(kind(x.c, width, 3, padding=1, groups=groups))

    def run(t: Tensor) -> Tensor:
        b, _, h, w = t.shape
        return layer(n.seen(t.flatten(2))).view(b, -1, h, w)

    n.push(n.of(run, lambda t: n.seen(layer(t.flatten(2))).unflatten(2, t.shape[2:])), x, x.sized(c=width))


def conv3d(n: Net) -> None:
    x, width = n.map(multiple=2), n.width()
    if n.below(2):
        layer = n.add(nn.Conv3d(x.c, width, (1, 3, 3), padding=(0, 1, 1)))
        n.push(lambda t: layer(t.unsqueeze(2)).squeeze(2), x, x.sized(c=width))
        return
    deep = n.add(nn.Conv3d(x.c // 2, width, (2, 3, 3), padding=(0, 1, 1)))

    def run(t: Tensor) -> Tensor:
        b, c, h, w = t.shape
        return deep(n.seen(t.view(b, c // 2, 2, h, w)))[:, :, 0]

    n.push(run, x, x.sized(c=width))


def functional_conv(n: Net) -> None:
    transposed, groups = bool(n.below(2)), n.of(1, 2, 0)
    x = n.map(multiple=max(1, groups), most=8)
    groups = groups or x.c
    width = x.c if groups == x.c else n.width(groups)
    shape = (x.c, width // groups, 3, 3) if transposed else (width, x.c // groups, 3, 3)
    weight, bias = n.param(*shape, std=(9 * x.c / groups) ** -0.5), n.param(width)
    call = F.conv_transpose2d if transposed else F.conv2d
    how = n.of(
        lambda t: call(t, weight(), bias(), padding=1, groups=groups),
        lambda t: call(t, weight=weight(), bias=None, stride=1, padding=(1, 1), groups=groups),
        lambda t: call(t, weight(), bias=bias(), padding=1, groups=t.shape[1] // (x.c // groups)),
        lambda t: call(t, weight(), None, 1, 1, *((0, groups) if transposed else (1, groups))),
    )
    n.push(how, x, x.sized(c=width))


def functional_linear(n: Net) -> None:
    x, width = n.vec(), n.width()
    weight, bias = n.param(width, x.c, std=x.c**-0.5), n.param(width)
    n.push(n.of(lambda t: F.linear(t, weight(), bias()), lambda t: F.linear(t, weight())), x, x.sized(c=width))


def functional_batch_norm(n: Net) -> None:
    x = n.map()
    mean, var = n.buffer(torch.randn(x.c)), n.buffer(torch.rand(x.c) + 0.5)
    weight, bias = n.param(x.c, mean=1, std=0.3), n.param(x.c)
    how = n.of(
        lambda t: F.batch_norm(t, mean(), var(), weight(), bias(), False, 0.1, 1e-5),
        lambda t: F.batch_norm(t, mean(), var(), training=False),
        lambda t: F.batch_norm(t, running_mean=mean(), running_var=var(), weight=weight(), bias=bias(), eps=1e-3),
    )
    n.push(how, x, x)


def batch_norm(n: Net) -> None:
    if n.below(3) == 0:
        x = n.vec()
        layer = n.add(nn.BatchNorm1d(x.c))
    else:
        x = n.map(even=True)
        layer = n.add(n.of(nn.BatchNorm2d(x.c), nn.BatchNorm2d(x.c, affine=False), nn.BatchNorm2d(x.c, eps=1e-3)))
    n.push(lambda t: layer(t), x, x)


def group_norm(n: Net) -> None:
    groups = n.of(1, 2, 0)
    x = n.map(multiple=max(1, groups), even=True)
    groups = groups or x.c
    layer = n.add(nn.GroupNorm(groups, x.c, affine=bool(n.below(3))))
    weight, bias = n.param(x.c, mean=1, std=0.3), n.param(x.c)
    how = n.of(
        layer,
        layer,
        lambda t: F.group_norm(t, groups),
        lambda t: F.group_norm(t, num_groups=groups, weight=weight(), bias=bias()),
    )
    n.push(lambda t: how(t), x, x)


def layer_norm(n: Net) -> None:
    x = n.map(even=True)
    last, whole = n.add(nn.LayerNorm(x.c)), n.add(nn.LayerNorm([x.c, x.h, x.w], elementwise_affine=bool(n.below(2))))
    weight, bias = n.param(x.c, mean=1, std=0.3), n.param(x.c)

    def channels_last(t: Tensor) -> Tensor:
        return last(t.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def functional(t: Tensor) -> Tensor:
        return F.layer_norm(t.permute(0, 2, 3, 1), (x.c,), weight(), bias(), 1e-6).permute(0, 3, 1, 2)

    def shape_read(t: Tensor) -> Tensor:
        y = t.movedim(1, -1)
        return F.layer_norm(y, y.shape[-1:]).movedim(-1, 1)

    n.push(n.of(channels_last, functional, shape_read, whole, lambda t: F.layer_norm(t, [x.h, x.w])), x, x)


def layer_norm_sequence(n: Net) -> None:
    x = n.seq()
    layer, linear = n.add(nn.LayerNorm(x.c)), n.add(nn.Linear(x.c, x.c))
    n.push(n.of(lambda t: t + linear(layer(t)), lambda t: layer(t + linear(t))), x, x)


def layer_norm_by_hand(n: Net) -> None:
    """ConvNeXt's: mean and variance over channels written out."""
    x = n.map()
    weight, bias = n.param(x.c, mean=1, std=0.3), n.param(x.c)

    def run(t: Tensor) -> Tensor:
        mean = t.mean(1, keepdim=True)
        var = (t - mean).pow(2).mean(1, keepdim=True)
        return weight()[:, None, None] * (t - mean) / torch.sqrt(var + 1e-6) + bias()[:, None, None]

    n.push(run, x, x)


def instance_norm(n: Net) -> None:
    x = n.map(even=True)
    affine, running = n.below(2), n.below(2)
    layer = n.add(nn.InstanceNorm2d(x.c, affine=bool(affine), track_running_stats=bool(running)))
    n.push(lambda t: layer(t), x, x)


def local_response_norm(n: Net) -> None:
    x = n.map()
    layer = n.add(nn.LocalResponseNorm(3))
    n.push(n.of(lambda t: layer(t), lambda t: F.local_response_norm(t, 3)), x, x)


def prelu(n: Net) -> None:
    x = n.map()
    layer = n.add(n.of(nn.PReLU(), nn.PReLU(x.c)))
    n.push(lambda t: layer(t), x, x)


def glu(n: Net) -> None:
    x = n.map(multiple=2)
    layer = n.add(nn.GLU(1))
    n.push(n.of(lambda t: layer(t), lambda t: F.glu(t, 1), lambda t: F.glu(t, dim=-3)), x, x.sized(c=x.c // 2))


def channels_last(n: Net) -> None:
    """An MLP on channels last, as in ConvNeXt."""
    x = n.map()
    up, down = n.add(nn.Linear(x.c, 2 * x.c)), n.add(nn.Linear(2 * x.c, x.c))
    gamma, act = n.param(x.c, mean=1, std=0.3), n.act()
    n.push(lambda t: t + (gamma() * down(act(up(t.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2), x, x)


def mlp(n: Net) -> None:
    x, width = n.vec(), n.width()
    first, second, act = n.add(nn.Linear(x.c, n.width())), None, n.act()
    second = n.add(nn.Linear(first.out_features, width))
    n.push(lambda t: second(act(first(t))), x, x.sized(c=width))


def reparametrised(n: Net) -> None:
    """weight_norm and spectral_norm as they were, by hooks, and as parametrizations."""
    x = n.map()
    how = n.of(weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm)
    layer = n.add(how(nn.Conv2d(x.c, x.c, 3, padding=1)))
    n.push(lambda t: F.leaky_relu(layer(t)), x, x)


def recurrent(n: Net) -> None:
    x = n.seq()
    layer = n.add(n.of(nn.LSTM, nn.GRU)(x.c, 6, batch_first=True, bidirectional=bool(n.below(2))))
    n.push(lambda t: layer(t)[0], x, x.sized(c=12 if layer.bidirectional else 6))


LAYERS: dict[str, Kind] = {
    "conv": conv,
    "grouped conv": grouped,
    "depthwise conv": depthwise,
    "transposed conv": transposed,
    "conv1d": conv1d,
    "conv3d": conv3d,
    "functional conv": functional_conv,
    "functional linear": functional_linear,
    "functional batch_norm": functional_batch_norm,
    "BatchNorm": batch_norm,
    "GroupNorm": group_norm,
    "LayerNorm": layer_norm,
    "LayerNorm of a sequence": layer_norm_sequence,
    "LayerNorm by hand": layer_norm_by_hand,
    "InstanceNorm": instance_norm,
    "LocalResponseNorm": local_response_norm,
    "PReLU": prelu,
    "GLU": glu,
    "channels last": channels_last,
    "MLP": mlp,
    "weight_norm and spectral_norm": reparametrised,
    "LSTM and GRU": recurrent,
}
