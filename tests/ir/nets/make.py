"""Recipes to networks: the kinds, and weights that keep every value at unit scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pagcp_ir.program import TensorSpec
from tests.ir.nets.attention import ATTENTION
from tests.ir.nets.layers import LAYERS
from tests.ir.nets.moves import MOVES
from tests.ir.nets.net import Kind, Net, Recipe
from tests.ir.nets.outputs import finish
from tests.ir.nets.pointwise import POINTWISE
from tests.ir.nets.shapes import SHAPES
from tests.ir.nets.sharing import SHARING

KINDS: dict[str, Kind] = {**MOVES, **SHAPES, **LAYERS, **SHARING, **POINTWISE, **ATTENTION}
KEPT_WHOLE = frozenset(
    {
        *("unbind over channels", "roll over channels", "conv1d along the channels", "MultiheadAttention"),
        *("LayerNorm by hand", "LocalResponseNorm", "softmax over channels", "reduction over channels"),
        *("mask of statistics", "LSTM and GRU", "products of channels", "product after an op of no zero"),
        *("linear attention", "product of a quotient"),
    }
)
"""Kinds through which no channel has to go; all others are cut through in some networks."""


def random_net(recipe: Recipe) -> Net:
    """The network in eval mode, with random weights: every layer's output has unit scale."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.salt)
        net = Net(recipe, KINDS, finish)
        _randomise_statistics(net)
        _unit_scale(net.eval())
    return net


def input_specs(net: Net) -> list[TensorSpec]:
    return [TensorSpec(x.shape(1)) for x in net.inputs]


def _randomise_statistics(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.5)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.9)


def _unit_scale(net: Net) -> None:
    """Layer by layer in the order of the calls: weights and biases over the standard deviation of the output."""
    done: set[int] = set()

    def rescale(module: nn.Module, _: object, output: Tensor) -> Tensor:
        weight = module._parameters["weight"]
        if weight is None or id(weight) in done or output.numel() < 2:
            return output
        done.add(id(weight))
        size = max(float(output.std()), float(output.mean().abs()) / 3) or 1.0  # a large mean saturates what follows
        weight.data /= size
        if module.bias is not None:
            module.bias.data /= size
        return output / size

    plain = (nn.Linear, nn.modules.conv._ConvNd)
    found = [m for m in net.modules() if isinstance(m, plain) and "weight" in m._parameters and not _hooked(m)]
    hooks = [m.register_forward_hook(rescale) for m in found]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        net(*(torch.randn(x.shape(4), generator=generator) for x in net.inputs))
    for hook in hooks:
        hook.remove()


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks) or type(module).__name__.startswith("Parametrized")
