"""Why producers share a width: n producers, n - 1 reasons, each with its op and its source line."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.coupling import Coupling, couplings
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from tests.ir.nets.make import KINDS, input_specs, random_net
from tests.ir.nets.net import Recipe

IMAGE = TensorSpec((1, 3, 8, 8))


def line_of(text: str) -> str:
    with open(__file__, encoding="utf-8") as source:
        number = next(number for number, line in enumerate(source, 1) if text in line)
    return f"tests/ir/test_coupling.py:{number}"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.block = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.gate, self.side = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1)
        self.shared, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        y = x + self.block(x)  # the sum
        y = self.gate(y).sigmoid() * y  # the gate
        y = self.shared(self.shared(y))  # twice
        return self.head(torch.cat([y, self.side(y)], 1))  # joins, and couples nothing


def test_the_reason_is_the_op_that_first_brings_them_together() -> None:
    channels = analyse(trace(Residual(), [IMAGE]))
    assert couplings(channels) == {
        "stem": (
            Coupling("stem", "block", "add", line_of("# the sum")),
            Coupling("stem", "gate", "mul", line_of("# the gate")),
            Coupling("stem", "shared", "shared: Conv2d", line_of("# twice")),
        ),
        "side": (),
        "head": (),
    }


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        y = y.view(2, 2, 4, 8, 8).transpose(1, 2).reshape(2, 8, 8, 8)  # the shuffle
        return self.out(y)


def test_a_law_that_is_enforced_at_the_end_has_its_line_too() -> None:
    channels = analyse(trace(Shuffled(), [IMAGE]))
    assert couplings(channels)["a"] == (Coupling("a", "b", "view", line_of("# the shuffle")),)


def test_random_networks_have_one_reason_less_than_producers() -> None:
    counted = 0
    for seed in range(16):
        draw = random.Random(seed)
        net = random_net(Recipe(seed, tuple((draw.choice(sorted(KINDS)), draw.randrange(100)) for _ in range(6))))
        channels = analyse(trace(net, input_specs(net)))
        found = couplings(channels)
        for group in channels.groups:
            reasons = found[group.name]
            assert {r.second for r in reasons} == set(group.producers) - {group.name}
            assert len(reasons) == len(group.producers) - 1
            counted += len(reasons)
    assert counted > 16
