"""Which channels live and die together: units of the structures that libraries get wrong (FIELD.md, theme 1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph
from pagcp_ir.cost import layer_costs
from pagcp_ir.planning import legal
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify
from specs.diagnostics import GraphError


class Net(nn.Module):
    """conv a [8] -> step(self, a, x) -> conv out [2]."""

    def __init__(self, step: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        for name, part in parts.items():
            setattr(self, name, part)
        self.out = nn.LazyConv2d(2, 1)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.step(self, self.a(x), x))


def build(model: nn.Module) -> tuple[Program, ChannelGraph]:
    torch.manual_seed(0)
    model(torch.rand(2, 3, 8, 8))
    program = trace(model, [TensorSpec((1, 3, 8, 8))])
    return program, analyse(program)


def width(size: int) -> nn.Conv2d:
    return nn.Conv2d(8, size, 3, padding=1)


STRUCTURES: dict[str, tuple[Net, dict[str, list[list[int]]]]] = {
    # name -> model, group -> for each unit its positions on the group's first producer
    "residual": (
        Net(lambda m, a, x: a + m.b(a), b=width(8)),
        {"a": [[i] for i in range(8)]},
    ),
    "concat twice and with the input": (
        Net(lambda m, a, x: torch.cat([a, x, a], 1)),
        {"a": [[i] for i in range(8)]},
    ),
    "halves that are multiplied": (
        Net(lambda m, a, x: a.chunk(2, 1)[0] * a.chunk(2, 1)[1].sigmoid()),
        {"a": [[0, 4], [1, 5], [2, 6], [3, 7]]},
    ),
    "glu": (Net(lambda m, a, x: F.glu(a, 1)), {"a": [[0, 4], [1, 5], [2, 6], [3, 7]]}),
    "grouped convolution": (
        Net(lambda m, a, x: m.b(a), b=nn.Conv2d(8, 4, 1, groups=2)),
        {"a": [[0, 4], [1, 5], [2, 6], [3, 7]], "b": [[0, 2], [1, 3]]},
    ),
    "grouped transposed convolution": (
        Net(lambda m, a, x: m.b(a), b=nn.ConvTranspose2d(8, 4, 1, groups=2)),
        {"a": [[0, 4], [1, 5], [2, 6], [3, 7]], "b": [[0], [1]]},
    ),
    "depthwise with multiplier": (
        Net(lambda m, a, x: m.b(a), b=nn.Conv2d(8, 16, 3, groups=8)),
        {"a": [[i] for i in range(8)]},
    ),
    "channel shuffle by view": (
        Net(lambda m, a, x: a.view(a.shape[0], 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)),
        {"a": [[0, 4], [1, 5], [2, 6], [3, 7]]},
    ),
    "channel shuffle as a module": (
        Net(lambda m, a, x: m.shuffle(a), shuffle=nn.ChannelShuffle(2)),
        {"a": [[0, 4], [1, 5], [2, 6], [3, 7]]},
    ),
    "pixel shuffle": (Net(lambda m, a, x: F.pixel_shuffle(a, 2)), {"a": [[0, 1, 2, 3], [4, 5, 6, 7]]}),
    "pixel unshuffle": (
        Net(lambda m, a, x: F.pixel_unshuffle(a, 2)),
        {"a": [[i] for i in range(8)]},
    ),
    "zero padded shortcut": (
        Net(lambda m, a, x: m.b(a) + F.pad(a, (0, 0, 0, 0, 2, 2)), b=width(12)),
        {"a": [[i] for i in range(8)] + [[]] * 4},
    ),
    "flatten, linear, view": (
        Net(
            lambda m, a, x: m.up(m.q(F.gelu(m.p(a.flatten(1)))).view(-1, 4, 8, 8)),
            p=nn.Linear(512, 6),
            q=nn.Linear(6, 256),
            up=nn.ConvTranspose2d(4, 5, 2, 2),
        ),
        {
            "a": [[i] for i in range(8)],
            "p": [[i] for i in range(6)],
            "q": [[64 * c + i for i in range(64)] for c in range(4)],
            "up": [[i] for i in range(5)],
        },
    ),
    "squeeze and excitation by linear": (
        Net(
            lambda m, a, x: a * m.q(F.gelu(m.p(a.mean((2, 3))))).sigmoid()[:, :, None, None],
            p=nn.Linear(8, 3),
            q=nn.Linear(3, 8),
        ),
        {"a": [[i] for i in range(8)], "p": [[0], [1], [2]]},
    ),
    "per-channel parameter": (
        Net(lambda m, a, x: a * m.gamma, gamma=nn.Parameter(torch.rand(1, 8, 1, 1))),
        {"a": [[i] for i in range(8)]},
    ),
    "functional depthwise with a bare weight": (
        Net(lambda m, a, x: F.conv2d(a, m.k, groups=8), k=nn.Parameter(torch.rand(8, 1, 3, 3))),
        {"a": [[i] for i in range(8)]},
    ),
    "spatial concat": (
        Net(lambda m, a, x: torch.cat([a, m.b(a)], 2), b=width(8)),
        {"a": [[i] for i in range(8)]},
    ),
    "stepped slices": (
        Net(lambda m, a, x: torch.cat([a[:, ::2], a[:, 1::2]], 1)),
        {"a": [[i] for i in range(8)]},
    ),
}


def positions(channels: ChannelGraph, group_name: str) -> list[list[int]]:
    group = channels.group(group_name)
    axis = channels.of(group, "out")[0].units
    return [np.flatnonzero(axis == unit).tolist() for unit in group.units]


@pytest.mark.parametrize("name", STRUCTURES)
def test_units(name: str) -> None:
    model, expected = STRUCTURES[name]
    _, channels = build(model)
    free = {g.name: positions(channels, g.name) for g in channels.groups if channels.free[g.units].any()}
    assert free == expected


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_cut_of_it_is_exact(name: str) -> None:
    program, channels = build(STRUCTURES[name][0])
    for group in channels.groups:
        for seed in range(3):
            keep = channels.all
            for unit in np.random.default_rng(seed).permutation(group.units)[: group.units.size // 2]:
                keep[unit] = False
                keep[unit] = not legal(channels, keep)
            cut = materialise(program, channels, keep)
            result = verify(program, channels, keep, cut)
            assert result.status == "exact", (group.name, result)


def test_protect_pins_outputs_inputs_or_both() -> None:
    model = Net(lambda m, a, x: m.b(a), b=width(6))
    program, _ = build(model)

    def free(*globs: str) -> list[str]:
        channels = analyse(program, globs)
        return [g.name for g in channels.groups if channels.free[g.units].any()]

    assert free() == ["a", "b"]
    assert free("b") == ["a"]
    assert free("b:in") == ["b"]
    assert free("b:both") == []
    assert free("*") == []


def test_a_glob_that_matches_nothing_is_an_error_with_near_matches() -> None:
    program, _ = build(Net(lambda m, a, x: m.backbone(a), backbone=width(6)))
    with pytest.raises(GraphError) as caught:
        analyse(program, ["bakbone", "a:up"])
    assert str(caught.value) == (
        "error[G302]: model.protect: `bakbone` matches no layer\n  hint: did you mean backbone?\n"
        "error[G302]: model.protect: `a:up` ends in `:up`\n  hint: use :in, :out or :both"
    )


def test_a_width_used_as_a_value_keeps_its_number() -> None:
    program, channels = build(Net(lambda m, a, x: a / a.shape[1] ** 0.5))
    keep = channels.all
    keep[channels.group("a").units[:6]] = False
    assert "truediv(a, 2.8284271247461903)" in materialise(program, channels, keep).text()


def test_chunks_of_unequal_counts_become_a_split() -> None:
    program, channels = build(Net(lambda m, a, x: torch.cat([a.chunk(2, 1)[1], a.chunk(2, 1)[0]], 1)))
    keep = channels.all
    keep[channels.group("a").units[:3]] = False
    assert "split(a, [1, 4], 1)" in materialise(program, channels, keep).text()


def test_windows_folded_into_the_batch_cost_what_they_cost() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.q, self.b = nn.Conv2d(3, 6, 1), nn.Linear(6, 12), nn.Conv2d(12, 2, 3, padding=1)
            self.table = nn.Linear(2, 6)
            self.register_buffer("places", torch.rand(16, 2))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            n, c, h, w = y.shape
            rows = y.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
            rows = self.q(rows + self.table(self.places))
            rows = rows.view(n, h // 4, w // 4, 4, 4, -1).permute(0, 5, 1, 3, 2, 4).reshape(n, -1, h, w)
            return self.b(rows)

    program = trace(Windows(), [TensorSpec((1, 3, 8, 8))])
    macs = {layer.name: layer.before.macs for layer in layer_costs(analyse(program), analyse(program).all)}
    assert macs == {"a": 64 * 3 * 6, "table": 16 * 2 * 6, "q": 64 * 6 * 12, "b": 64 * 9 * 12 * 2}


def test_a_reshape_that_mixes_channels_with_positions_pins_them() -> None:
    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            n, _, h, w = x.shape
            return self.b(self.a(x).flatten(2).transpose(1, 2).reshape(n, 8, h, w))

    channels = analyse(trace(Mixes(), [TensorSpec((1, 3, 4, 4))]))
    assert [(pin.reason, pin.units.size) for pin in channels.pins] == [
        ("`reshape` mixes channels with positions of the image", 8),
        ("graph output", 2),
    ]


def test_tied_weights_are_masked_where_they_are_read() -> None:
    class Tied(nn.Module):
        """The decoder of an autoencoder has the encoder's weight."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 6, 3, 3))
            self.stem, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.conv2d(self.stem(x), self.weight, padding=1)
            return self.out(F.conv_transpose2d(torch.sigmoid(y), self.weight, padding=1))

    torch.manual_seed(0)
    program = trace(Tied(), [TensorSpec((1, 3, 8, 8))])
    channels = analyse(program)
    for seed in range(3):
        keep = channels.all
        keep[np.random.default_rng(seed).permutation(np.flatnonzero(channels.free))[:5]] = False
        assert legal(channels, keep)
        result = verify(program, channels, keep, materialise(program, channels, keep))
        assert result.status == "exact", result
