"""Every reason for which channels are pinned, word by word, and what is not pinned beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from pagcp_ir import labels
from pagcp_ir.analyse import analyse
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace


class Between(nn.Module):
    """conv a [4] -> step -> whatever the step needs; the step's source line is where pins must point."""

    def __init__(self, step: Callable[[nn.Module, Tensor, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        for name, part in parts.items():
            self.add_module(name, part)
        self.table = nn.Parameter(torch.rand(4))
        self.large = nn.Parameter(torch.rand(1, 4, 8, 8))
        self.out = nn.LazyConv2d(2, 1)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.step(self, self.a(x), x))


def placed_pins(model: nn.Module, protect: tuple[str, ...] = ()) -> dict[str, dict[str, str]]:
    """Group name -> "count/width reason" of its pins -> the source line."""
    model(torch.rand(2, 3, 8, 8))
    channels = analyse(trace(model, [TensorSpec((1, 3, 8, 8))]), protect)
    found: dict[str, dict[str, str]] = {}
    for group in channels.groups:
        for pin in channels.pins:
            count = len(set(group.units.tolist()) & set(pin.units.tolist()))
            if count:
                found.setdefault(group.name, {})[f"{count}/{group.units.size} {pin.reason}"] = pin.where
    return found


def pins_of(model: nn.Module, protect: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Group name -> "count/width reason" for its pins."""
    return {group: list(pins) for group, pins in placed_pins(model, protect).items()}


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 1e9 else x * 2


class Box:
    """A container that nothing knows how to look into."""

    def __init__(self, value: Tensor) -> None:
        assert float(value.sum()) < 1e9
        self.value = value


@torch.fx.wrap
def boxed(value: Tensor) -> Box:
    return Box(value)


@torch.fx.wrap
def opened(box: Box) -> Tensor:
    return box.value * 2


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda m, args, result: result * 2)
    return module


def flat(x: Tensor) -> Tensor:
    """[N, c, 8, 8] as a sequence [N, 64, c]."""
    return x.flatten(2).transpose(1, 2)


def image(x: Tensor) -> Tensor:
    """Back again."""
    return x.transpose(1, 2).unflatten(2, (8, 8))


CASES: dict[str, tuple[Between, str]] = {
    "softmax over channels": (
        Between(lambda m, a, x: a.softmax(1)),
        "4/4 `softmax` runs over the channels",
    ),
    "softmax module": (
        Between(lambda m, a, x: m.soft(a), soft=nn.Softmax(1)),
        "4/4 `soft: Softmax` runs over the channels",
    ),
    "mean over channels": (
        Between(lambda m, a, x: a.mean(1, keepdim=True)),
        "4/4 `mean` runs over the channels",
    ),
    "local response norm": (
        Between(lambda m, a, x: m.norm(a), norm=nn.LocalResponseNorm(3)),
        "4/4 `norm: LocalResponseNorm` takes statistics over neighbouring channels",
    ),
    "multi-head attention": (
        Between(
            lambda m, a, x: m.mha(*[a.flatten(2).transpose(1, 2)] * 3)[0].transpose(1, 2).unflatten(2, (8, 8)),
            mha=nn.MultiheadAttention(4, 2, batch_first=True),
        ),
        "4/4 `mha: MultiheadAttention` packs queries, keys and values of one width and is kept whole",
    ),
    "a sum of products after a sigmoid": (
        Between(lambda m, a, x: (a.sigmoid().flatten(2).transpose(1, 2) @ a.sigmoid().flatten(2)).unflatten(2, (8, 8))),
        "4/4 summed by `matmul` after an op that does not map 0 to 0",
    ),
    "an outer product": (
        Between(lambda m, a, x: torch.einsum("bchw,bdhw->bcd", a, a)[:, :, :, None]),
        "4/4 meets other channels in the outer `einsum`",
    ),
    "one channel by index": (
        Between(lambda m, a, x: torch.cat([a, a[:, 1].unsqueeze(1)], 1)),
        "1/4 taken by a literal index in `getitem`",
    ),
    "select": (
        Between(lambda m, a, x: torch.cat([a, a.select(1, 2).unsqueeze(1)], 1)),
        "1/4 taken by a literal index in `select`",
    ),
    "unbind": (
        Between(lambda m, a, x: torch.stack(a.unbind(1)[:2], 1)),
        "4/4 `unbind` names every channel",
    ),
    "added to the input": (
        Between(lambda m, a, x: m.b(a) + x, b=nn.Conv2d(4, 3, 1)),
        "b: 3/3 meets the graph input `x` in `add`",
    ),
    "an op that is not in the table": (
        Between(lambda m, a, x: torch.renorm(a, 2, 0, 1.0)),
        "4/4 `renorm` is not in the op table",
    ),
    "a recurrent layer": (
        Between(lambda m, a, x: m.rnn(a.mean((2, 3)))[0][:, :, None, None], rnn=nn.GRU(4, 5)),
        "4/4 `rnn: GRU` is recurrent and is kept whole",
    ),
    "a module that cannot be traced": (
        Between(lambda m, a, x: m.custom(a), custom=Custom()),
        "4/4 `custom: Custom` is kept whole: the control flow depends on data: float() reads the value of `sum_1` "
        "(tests/ir/test_pins.py:LINE)",
    ),
    "a module that is not in the table": (
        Between(
            lambda m, a, x: m.bilinear(a.mean((2, 3)), a.mean((2, 3)))[:, :, None, None], bilinear=nn.Bilinear(4, 4, 5)
        ),
        "4/4 `bilinear: Bilinear` is not in the op table",
    ),
    "a mask of one channel": (
        Between(lambda m, a, x: a * m.mask(a).sigmoid(), mask=nn.Conv2d(4, 1, 1)),
        "mask: 1/1 broadcast over other channels in `mul`",
    ),
    "an index that is data": (
        Between(lambda m, a, x: a[:, torch.arange(4, device=a.device)]),
        "4/4 `getitem` takes an index that is data",
    ),
    "roll over the channels": (
        Between(lambda m, a, x: a.roll(1, 1)),
        "4/4 `roll` shifts the channels",
    ),
    "a mirrored pad of the channels": (
        Between(lambda m, a, x: F.pad(a, (0, 0, 0, 0, 0, -1))),
        "4/4 `pad` crops or mirrors the channels",
    ),
    "a convolution along another axis": (
        Between(lambda m, a, x: m.mix(a.permute(0, 2, 1, 3)).permute(0, 2, 1, 3), mix=nn.Conv2d(8, 8, 1)),
        "4/4 `mix: Conv2d` mixes positions of another axis than the channels",
    ),
    "a linear layer along another axis": (
        Between(lambda m, a, x: m.mix(a), mix=nn.Linear(8, 8)),
        "4/4 `mix: Linear` reads another axis than the channels",
    ),
    "a computed weight": (
        Between(lambda m, a, x: F.conv2d(a, m.k.weight * x.mean()), k=nn.Conv2d(4, 4, 1)),
        "4/4 the weight of `conv2d` is computed",
    ),
    "channels that are the grid of a sampling": (
        Between(lambda m, a, x: F.grid_sample(x, torch.tanh(m.g(a).permute(0, 2, 3, 1))), g=nn.Conv2d(4, 2, 1)),
        "g: 2/2 the grid of `grid_sample`",
    ),
    "a resize of the channels": (
        Between(lambda m, a, x: F.interpolate(a.transpose(1, 3), scale_factor=2.0).transpose(1, 3)),
        "4/4 `interpolate` works along the channels",
    ),
    "a write through a view": (
        Between(lambda m, a, x: (a[:, :2].add_(1), a)[1]),
        "2/4 `add_` writes through a view",
    ),
    "a product that is divided by as well": (
        Between(lambda m, a, x: (flat(a) @ (a / (a * a + 1)).flatten(2)).unflatten(2, (8, 8))),
        "4/4 is summed in products and divided by",
    ),
    "an object that is not a container": (
        Between(lambda m, a, x: opened(boxed(a))),
        "4/4 is kept in `boxed`, an object that is not a container",
    ),
    "a width that an unknown op is told": (
        Between(lambda m, a, x: torch.renorm(x, 2, 0, a.shape[1])),
        "4/4 its size is read by `renorm`",
    ),
    "a tensor that forward makes": (
        Between(lambda m, a, x: a + x.new_ones(1, 4, 8, 8)),
        "4/4 meets the constant of `new_ones` in `add`",
    ),
    "the mask of an attention": (
        Between(
            lambda m, a, x: image(F.scaled_dot_product_attention(*[flat(m.q(x))] * 3, attn_mask=flat(m.k(x)))),
            q=nn.Conv2d(3, 4, 1),
            k=nn.Conv2d(3, 64, 1),
        ),
        "k: 64/64 the mask of `scaled_dot_product_attention`",
    ),
    "attention over the channels": (
        Between(
            lambda m, a, x: F.scaled_dot_product_attention(*[x.flatten(2).repeat(1, 4, 1)[:, :4]] * 2, a.flatten(2))[
                :, :, :, None
            ]
        ),
        "4/4 meets the weights of `scaled_dot_product_attention` in `scaled_dot_product_attention`",
    ),
    "a product of what is always there": (
        Between(
            lambda m, a, x: m.b(a) + (flat(x) @ x.flatten(2))[:, :3].unflatten(2, (8, 8)),
            b=nn.Conv2d(4, 3, 1),
        ),
        "b: 3/3 meets the result of `matmul` in `add`",
    ),
    "a module with hooks": (
        Between(lambda m, a, x: m.b(a), b=hooked(nn.Conv2d(4, 5, 1))),
        "4/4 `b: Conv2d` has hooks and is kept whole",
    ),
    "a shuffle of another axis": (
        Between(lambda m, a, x: F.channel_shuffle(a.transpose(1, 2), 2).transpose(1, 2)),
        "4/4 `channel_shuffle` shuffles another axis",
    ),
    "a group norm along another axis": (
        Between(lambda m, a, x: m.norm(a.transpose(1, 2)).transpose(1, 2), norm=nn.GroupNorm(2, 8)),
        "4/4 `norm: GroupNorm` works along another axis than the channels",
    ),
    "computed statistics": (
        Between(
            lambda m, a, x: F.batch_norm(a, m.norm.running_mean * 2, m.norm.running_var + 1),
            norm=nn.BatchNorm2d(4),
        ),
        "4/4 the tensors of `batch_norm` are computed",
    ),
    "a parameter that is too large to follow": (
        Between(lambda m, a, x: a * m.large.flatten(2).unflatten(2, (8, 8))),
        "4/4 meets `large`, too large to follow element by element in `mul`",
    ),
    "the only channel": (
        Between(lambda m, a, x: m.b(m.one(a)), one=nn.Conv2d(4, 1, 1), b=nn.Conv2d(1, 4, 1)),
        "one: 1/1 the whole width of `one`",
    ),
}


def expected_of(text: str) -> tuple[str, str]:
    group, colon, rest = text.partition(": ")
    if colon and group.isidentifier():
        text = rest
    else:
        group = "a"
    with open(__file__, encoding="utf-8") as source:
        line = next(n for n, t in enumerate(source, 1) if "if float(x.sum()) > 1e9" in t)
    return group, text.replace("LINE", str(line))


NO_LINE = {"a product that is divided by as well"}
"""Pins that come of several ops together."""


@pytest.mark.parametrize("name", CASES)
def test_the_reason_and_its_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "ELEMENTS", 200)
    model, text = CASES[name]
    group, reason = expected_of(text)
    pins = placed_pins(model).get(group, {})
    assert reason in pins
    lines = {f"tests/ir/test_pins.py:{line}" for _, _, line in model.step.__code__.co_lines() if line}
    assert pins[reason] in ({""} if name in NO_LINE else lines)


def test_graph_outputs_are_pinned_by_name() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> dict[str, object]:
            y = self.a(x)
            return {"map": self.b(y), "parts": [y.mean((2, 3))]}

    assert pins_of(Heads()) == {
        "a": ["4/4 graph output `parts[0]`"],
        "b": ["2/2 graph output `map`"],
    }


def test_pins_point_at_the_users_line() -> None:
    model = Between(lambda m, a, x: a.softmax(1))
    model(torch.rand(2, 3, 8, 8))
    pin = analyse(trace(model, [TensorSpec((1, 3, 8, 8))])).pins[0]
    with open(__file__, encoding="utf-8") as source:
        lines = [n for n, t in enumerate(source, 1) if "Between(lambda m, a, x: a.softmax(1))" in t]
    assert pin.where == f"tests/ir/test_pins.py:{lines[-2]}"


def test_an_unknown_op_pins_nothing_else() -> None:
    model = Between(lambda m, a, x: m.b(torch.renorm(a, 2, 0, 1.0)), b=nn.Conv2d(4, 6, 1))
    assert set(pins_of(model)) == {"a", "out"}
