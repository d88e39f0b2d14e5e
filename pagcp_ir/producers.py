"""Label rules of ops with weights: convolutions and linear layers make channels, normalisations carry them.

Equal-count law: a grouped convolution keeps equal counts per part, so position j of every part is tied. With one
input channel per part (depthwise, with or without multiplier) the parts themselves are what is cut.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pagcp_ir.labels import RawLayer, Ref, spread
from pagcp_ir.site import Rule, Site, opaque, pinned

__all__ = ["batch_norm", "conv", "embedding", "functional_conv", "functional_linear", "linear", "per_channel", "prelu"]


def conv(site: Site) -> Any:
    """nn.Conv*d and nn.ConvTranspose*d."""
    module, weight = site.module, site.own("weight")
    assert isinstance(module, nn.modules.conv._ConvNd)
    assert weight is not None
    if module.padding_mode != "zeros" and module.transposed:
        return opaque(site)
    x = site.as_labels(site.arg(0, "input"))
    return _conv(site, x, weight, site.own("bias"), module.groups, module.transposed)


def functional_conv(transposed: bool) -> Rule:
    """F.conv*d and F.conv_transpose*d on bare parameters."""

    def rule(site: Site) -> Any:
        x, weight, bias = site.arg(0, "input"), site.arg(1, "weight"), site.arg(2, "bias", None)
        groups = site.arg(6, "groups", 1)
        own = isinstance(weight, Ref) or (groups == weight.shape[0] > 1 and not transposed)
        if not own or not isinstance(bias, (Ref, type(None))):
            return pinned(site, f"the weight of `{site.labels.op}` is computed")
        return _conv(site, site.as_labels(x), weight, bias, groups, transposed)

    return rule


def _conv(site: Site, x: Tensor, weight: Ref | Tensor, bias: Ref | None, groups: int, transposed: bool) -> Any:
    labels = site.labels
    channel = x.ndim - (len(weight.shape) - 1)
    inputs = labels.along(x, channel, f"`{labels.op}` mixes positions of another axis than the channels")
    depthwise = groups > 1 and inputs.shape[0] == groups
    if depthwise and (isinstance(weight, Ref) or len(torch.unique(inputs)) == groups):
        outputs = inputs.repeat_interleave(site.shape[channel] // groups)
        labels.tie(_kernels(site, weight), inputs if transposed else outputs)
    elif isinstance(weight, Ref):
        outputs = _mixed(site, weight, inputs, groups, transposed)
    else:  # one kernel for every sample, or no kernel of its own for every channel
        return pinned(site, f"the weight of `{labels.op}` is computed")
    if bias is not None:
        labels.tie(labels.axis(bias, 0, "along"), outputs)
    shape = x.shape if transposed else site.shape
    factor = site.per_sample(math.prod(shape) // shape[channel]) * math.prod(weight.shape[2:])
    _layer(site, weight, bias, factor, inputs, outputs, groups=groups, depthwise=depthwise)
    return spread(outputs, channel, site.shape)


def _mixed(site: Site, weight: Ref, inputs: Tensor, groups: int, transposed: bool) -> Tensor:
    """The outputs of a convolution that mixes channels: of all, or of those of one part."""
    labels = site.labels
    if transposed:
        reads, makes = labels.axis(weight, 0, "in"), labels.axis(weight, 1, "out")
        labels.tie(reads, inputs)
        _equal_counts(site, reads, groups)
        return makes.repeat(groups)
    reads, makes = labels.axis(weight, 1, "in"), labels.axis(weight, 0, "out")
    labels.tie(inputs.view(groups, -1), reads.view(1, -1))
    _equal_counts(site, makes, groups)
    return makes


def _kernels(site: Site, weight: Ref | Tensor) -> Tensor:
    """One label for every kernel of a depthwise convolution; a kernel may be computed (a blur that is expanded)."""
    if isinstance(weight, Ref):
        return site.labels.axis(weight, 0, "along")
    return site.labels.along(weight, 0, f"the weight of `{site.labels.op}` is computed")


def _equal_counts(site: Site, axis: Tensor, groups: int) -> None:
    if groups > 1:
        parts = axis.view(groups, -1)
        site.labels.tie(parts, parts[:1])


def linear(site: Site) -> Any:
    """nn.Linear: reads and writes the last axis."""
    weight = site.own("weight")
    assert weight is not None
    return _linear(site, site.as_labels(site.arg(0, "input")), weight, site.own("bias"))


def functional_linear(site: Site) -> Any:
    """F.linear on bare parameters."""
    weight, bias = site.arg(1, "weight"), site.arg(2, "bias", None)
    if not isinstance(weight, Ref) or not isinstance(bias, (Ref, type(None))):
        return pinned(site, f"the weight of `{site.labels.op}` is computed")
    return _linear(site, site.as_labels(site.arg(0, "input")), weight, bias)


def _linear(site: Site, x: Tensor, weight: Ref, bias: Ref | None) -> Tensor:
    inputs = site.labels.along(x, -1, f"`{site.labels.op}` reads another axis than the channels")
    site.labels.tie(site.labels.axis(weight, 1, "in"), inputs)
    outputs = site.labels.axis(weight, 0, "out")
    if bias is not None:
        site.labels.tie(site.labels.axis(bias, 0, "along"), outputs)
    _layer(site, weight, bias, site.per_sample(math.prod(x.shape[:-1])), inputs, outputs)
    return spread(outputs, x.ndim - 1, site.shape)


def embedding(site: Site) -> Any:
    """nn.Embedding: its columns are channels; which row is read depends on the data."""
    weight = site.own("weight")
    assert isinstance(site.module, nn.Embedding)
    assert weight is not None
    if site.module.max_norm is not None:
        return opaque(site)  # forward writes to the table
    return spread(site.labels.axis(weight, 1, "out"), len(site.shape) - 1, site.shape)


def _layer(
    site: Site,
    weight: Ref | Tensor,
    bias: Ref | None,
    factor: int,
    inputs: Tensor,
    outputs: Tensor,
    groups: int = 1,
    depthwise: bool = False,
) -> None:
    kind = type(site.module).__name__ if site.module is not None else site.labels.op
    site.labels.layers.append(
        RawLayer(
            name=weight.name.removesuffix(".weight") if isinstance(weight, Ref) else site.node.name,
            kind=kind,
            node=site.node.name,
            factor=factor,
            inputs=inputs,
            outputs=outputs,
            per_channel=depthwise,
            parts=1 if depthwise else groups,
            tensors=tuple(t.name for t in (weight, bias) if isinstance(t, Ref)),
        )
    )


def batch_norm(site: Site) -> Any:
    """nn.BatchNorm*d: statistics per channel, so every tensor of it is carried along."""
    return per_channel("weight", "bias", "running_mean", "running_var")(site)


def per_channel(*tensors: str) -> Rule:
    """A module that treats each channel (axis 1) alone and has one entry per channel in these tensors."""

    def rule(site: Site) -> Any:
        x = site.as_labels(site.arg(0, "input"))
        channels = site.labels.along(x, 1, f"`{site.labels.op}` works along another axis than the channels")
        for name in tensors:
            ref = site.own(name)
            if ref is not None:
                site.labels.tie(site.labels.axis(ref, 0, "along"), channels)
        return spread(channels, 1, site.shape)

    return rule


def prelu(site: Site) -> Any:
    """nn.PReLU: one slope for all channels binds nothing."""
    weight = site.own("weight")
    assert weight is not None
    if weight.tensor.numel() == 1:
        return site.as_labels(site.arg(0, "input"))
    return per_channel("weight")(site)


def functional_batch_norm(site: Site) -> Any:
    """F.batch_norm and F.instance_norm(x, running_mean, running_var, weight, bias) on bare tensors."""
    names = ("running_mean", "running_var", "weight", "bias")
    tensors = [site.arg(i, name, None) for i, name in enumerate(names, 1)]
    if not all(isinstance(t, (Ref, type(None))) for t in tensors):
        return pinned(site, f"the tensors of `{site.labels.op}` are computed")
    x = site.as_labels(site.arg(0, "input"))
    channels = site.labels.along(x, 1, f"`{site.labels.op}` works along another axis than the channels")
    for ref in tensors:
        if ref is not None:
            site.labels.tie(site.labels.axis(ref, 0, "along"), channels)
    return spread(channels, 1, site.shape)


def multihead(site: Site) -> Any:
    """Its width, heads and packed weights are one number: it is kept whole."""
    return pinned(site, f"`{site.labels.op}` packs queries, keys and values of one width and is kept whole")


def recurrent(site: Site) -> Any:
    """Gates are packed and states feed back: kept whole."""
    return pinned(site, f"`{site.labels.op}` is recurrent and is kept whole")
