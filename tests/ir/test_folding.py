"""Weights that are computed from parameters are folded: the network stays what it was, and its channels can be cut."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils import _pytree as pytree

from pagcp_ir.analyse import analyse
from pagcp_ir.planning import legal
from pagcp_ir.program import TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify
from tests.ir.test_hard_cases import Hard


class Standardised(nn.Conv2d):
    """Weight standardisation with a gain, as in normaliser-free networks."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(outside) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, weight=self.gain * 0.3, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def through(part: nn.Module, twice: bool = False) -> Hard:
    return Hard(lambda m, x, y: m.h(m.s(m.s(y)) if twice else m.s(y)), s=part)


CASES = {
    "weight_norm": through(parametrizations.weight_norm(nn.Conv2d(12, 12, 1))),
    "spectral_norm": through(parametrizations.spectral_norm(nn.Conv2d(12, 12, 1))),
    "standardised": through(Standardised(12, 12)),
    "standardised, called twice": through(Standardised(12, 12), twice=True),
}


def old() -> dict[str, Hard]:
    return {
        "weight_norm of old": through(weight_norm(nn.Conv2d(12, 12, 1))),
        "spectral_norm of old": through(spectral_norm(nn.Conv2d(12, 12, 1))),
    }


@pytest.mark.parametrize("name", [*CASES, "weight_norm of old", "spectral_norm of old"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_layer_is_a_plain_one_and_is_cut(name: str) -> None:
    torch.manual_seed(0)
    model = (CASES | old())[name].eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    program = trace(model, [TensorSpec((1, 3, 8, 8))])
    assert type(program.module.get_submodule("s")) is nn.Conv2d
    assert program.notes == ("weights that forward computed from parameters are folded: s",)
    assert not [n for n in program.tensors() if "gain" in n or "original" in n or n.endswith(("_g", "_v", "_u"))]
    channels = analyse(program)
    assert not [pin for pin in channels.pins if "graph output" not in pin.reason]
    keep = channels.all
    for unit in np.random.default_rng(0).permutation(np.flatnonzero(channels.free)):
        keep[unit] = unit % 3 == 0
        keep[unit] |= not legal(channels, keep)
    assert verify(program, channels, keep, materialise(program, channels, keep)).status == "exact"
    model(torch.rand(1, 3, 8, 8))  # the user's own module still is what it was
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in before.items())


def test_tied_weights_and_copies_of_one_kernel_stay() -> None:
    tied = Hard(lambda m, x, y: F.linear(torch.tanh(m.q(x[:, 0])), m.q.weight.t()))
    blurred = Hard(
        lambda m, x, y: m.h(F.conv2d(y, m.t.expand(12, 1, 3, 3), groups=12)), t=nn.Parameter(torch.rand(1, 1, 3, 3))
    )
    for model in (tied, blurred):
        program = trace(model.eval(), [TensorSpec((1, 3, 8, 8))])
        assert not program.notes
        x = torch.rand(2, 3, 8, 8)
        for one, two in zip(*map(pytree.tree_leaves, (model(x), program.run([x]))), strict=True):
            torch.testing.assert_close(one, two)


def test_a_copy_of_the_model_is_not_shared() -> None:
    model = through(parametrizations.weight_norm(nn.Conv2d(12, 12, 1))).eval()
    again = copy.deepcopy(model)
    trace(model, [TensorSpec((1, 3, 8, 8))])
    assert type(again.s) is type(model.s) is not nn.Conv2d
    assert isinstance(model.s.weight, Tensor)
