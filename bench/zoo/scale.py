"""Random weights under which every activation has unit scale, so that a wrong channel shows in the outputs.

With default initialisation the outputs of some networks are constant to 1e-14 and any check of them passes. A layer's
weight and bias are divided by the standard deviation of its output, in the order in which the layers run; every
parameter that is initialised to a constant (a gamma, a layer scale, a zero head) becomes random.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["unit_scale"]

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def unit_scale(model: nn.Module, size: int) -> None:
    """Rescale `model` in place on one batch of two random images [2, 3, size, size]."""
    with torch.no_grad():
        for parameter in model.parameters():
            _vary(parameter)
        for module in model.modules():
            if isinstance(module, _BATCH_NORMS) and module.running_mean is not None:
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
        hooks = [m.register_forward_hook(_rescale) for m in model.modules() if isinstance(m, _LAYERS)]
        model(torch.randn(2, 3, size, size))
    for hook in hooks:
        hook.remove()


def _vary(parameter: Tensor) -> None:
    """Make a constant parameter random: around 0 where it was 0, around 1 elsewhere."""
    if parameter.numel() < 2 or not parameter.is_floating_point() or bool((parameter != parameter.flatten()[0]).any()):
        return
    if bool(parameter.flatten()[0] == 0):
        parameter.normal_(std=0.3)
    else:
        parameter.uniform_(0.5, 1.5)


def _rescale(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    scale = float(output.std()) if isinstance(output, Tensor) and output.numel() > 1 else 0.0
    if not 0 < scale < float("inf"):
        return output
    layer.weight.div_(scale)
    if layer.bias is not None:
        layer.bias.div_(scale)
    return layer.forward(*args)
