"""Moves and products that once pinned what they touch: channels pass them, and the cut is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.planning import legal
from pagcp_ir.program import TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify
from tests.ir.test_hard_cases import Hard


def table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape))


def with_index(hard: Hard, *positions: int) -> Hard:
    hard.register_buffer("index", torch.tensor(positions))
    return hard


def mask() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 1, 1), nn.Sigmoid())


def wide() -> nn.Module:
    return nn.Conv2d(16, 4, 1)


SHUFFLED = (3, 2, 1, 0, 5, 4, 7, 6, 11, 10, 9, 8)

# What is done with y [N, 12, 8, 8], and how many units may be cut.
CASES: dict[str, tuple[Hard, int]] = {
    "mask by expand": (Hard(lambda m, x, y: m.h(y * m.m(x).expand(-1, 12, -1, -1)), m=mask()), 12),
    "mask by expand_as": (Hard(lambda m, x, y: m.h(y * m.m(x).expand_as(y)), m=mask()), 12),
    "mask by sizes": (Hard(lambda m, x, y: m.h(y * m.m(x).expand(*y.size())), m=mask()), 12),
    "mask by repeat": (Hard(lambda m, x, y: m.h(y * m.m(x).repeat(1, 12, 1, 1)), m=mask()), 12),
    "mask by repeat of the width": (Hard(lambda m, x, y: m.h(y * m.m(x).repeat(1, y.shape[1], 1, 1)), m=mask()), 12),
    "copies beside": (
        Hard(lambda m, x, y: m.n(torch.cat([y, m.m(x).expand(-1, 4, -1, -1)], 1)), m=mask(), n=wide()),
        12,
    ),
    "list of positions": (Hard(lambda m, x, y: m.h(y[:, list(SHUFFLED)])), 12),
    "buffer of positions": (with_index(Hard(lambda m, x, y: m.h(y[:, m.index])), *SHUFFLED), 12),
    "index_select": (with_index(Hard(lambda m, x, y: m.h(torch.index_select(y, 1, m.index))), *SHUFFLED), 12),
    "index_select of some, one twice": (
        with_index(Hard(lambda m, x, y: m.n(y.index_select(1, m.index)), n=nn.Conv2d(4, 4, 1)), 3, 3, 1, 7),
        12,
    ),
    "zeros alike": (
        Hard(lambda m, x, y: m.n(torch.cat([y, torch.zeros_like(y)], 1)), n=nn.Conv2d(24, 4, 1)),
        12,
    ),
    "new tensor of positions": (Hard(lambda m, x, y: m.h(y + y.new_ones(y.shape[2], y.shape[3]))), 12),
    "new channels": (
        Hard(lambda m, x, y: m.n(torch.cat([y, y.new_ones(y.shape[0], 4, *y.shape[2:])], 1)), n=wide()),
        12,
    ),
    "T": (Hard(lambda m, x, y: m.l(y.mean((2, 3)).T.T)), 12),
    "mT": (Hard(lambda m, x, y: m.l(y.flatten(2).mT)), 12),
    "einsum position by position": (Hard(lambda m, x, y: m.h(torch.einsum("nchw,nc->nchw", y, y.mean((2, 3))))), 12),
    "einsum without an output": (Hard(lambda m, x, y: m.l(torch.einsum("abcd", y).mean((2, 3)))), 12),
    "matmul channel by channel": (Hard(lambda m, x, y: m.h(y @ y.transpose(2, 3))), 12),
    "matmul with a table": (Hard(lambda m, x, y: m.l(y.permute(0, 2, 3, 1) @ m.t), t=table(12, 12)), 24),
    "matmul of positions": (Hard(lambda m, x, y: m.h(y @ m.t), t=table(8, 8)), 12),
    "table from the left": (
        Hard(lambda m, x, y: m.h((m.t @ y.flatten(2)).view(y.shape[0], 12, *y.shape[2:])), t=table(12, 12)),
        24,
    ),
    "einsum with a table": (Hard(lambda m, x, y: m.h(torch.einsum("nchw,cd->ndhw", y, m.t)), t=table(12, 12)), 24),
    "einsum with dots": (
        Hard(lambda m, x, y: m.l(torch.einsum("...c,cd->...d", y.permute(0, 2, 3, 1), m.t)), t=table(12, 12)),
        24,
    ),
    "einsum of positions": (Hard(lambda m, x, y: m.h(torch.einsum("nchw,wv->nchv", y, m.t)), t=table(8, 8)), 12),
    "blur expanded": (
        Hard(lambda m, x, y: m.h(F.conv2d(y, m.t.expand(12, 1, 3, 3), groups=12)), t=table(1, 1, 3, 3)),
        12,
    ),
    "blur repeated": (
        Hard(lambda m, x, y: m.h(F.conv2d(y, m.t.repeat(y.shape[1], 1, 1, 1), groups=y.shape[1])), t=table(1, 1, 3, 3)),
        12,
    ),
    "sampled at a grid": (
        Hard(lambda m, x, y: m.h(F.grid_sample(y, torch.tanh(x[:, :2].permute(0, 2, 3, 1)), align_corners=False))),
        12,
    ),
    "plus an embedding": (
        Hard(lambda m, x, y: m.h(y + m.e((x[:, 0, 0, 0] > 0).long())[:, :, None, None]), e=nn.Embedding(2, 12)),
        12,
    ),
    "functional instance norm": (Hard(lambda m, x, y: m.h(F.instance_norm(y) * y.mean((2, 3), keepdim=True))), 12),
    "normalised view": (Hard(lambda m, x, y: m.h(F.normalize(y.flatten(2), dim=-1).view(y.shape))), 12),
    "sizes of data": (Hard(lambda m, x, y: m.h(y.data.view(y.data.size(0), 12, 8, 8))), 12),
    "view with the rest computed": (
        Hard(
            lambda m, x, y: m.n(y.view(y.shape[0], 4, y.shape[1] // 4 * y.shape[2] * y.shape[3])).mean(2),
            n=nn.Conv1d(4, 4, 1),
        ),
        4,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_channels_pass_and_the_cut_is_exact(name: str) -> None:
    torch.manual_seed(0)
    model, free = CASES[name]
    program = trace(model.eval(), [TensorSpec((1, 3, 8, 8))])
    channels = analyse(program)
    assert int(channels.free.sum()) == free, [pin.reason for pin in channels.pins]
    for seed in range(3):
        keep = channels.all
        for unit in np.random.default_rng(seed).permutation(np.flatnonzero(channels.free)):
            keep[unit] = np.random.default_rng(seed + int(unit)).random() < 0.4
            keep[unit] |= not legal(channels, keep)
        result = verify(program, channels, keep, materialise(program, channels, keep))
        assert result.status == "exact", result


def outer(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    y[:, :4] = 0
    return m.h(y)


def test_what_is_written_into_stays() -> None:
    channels = analyse(trace(Hard(outer).eval(), [TensorSpec((1, 3, 8, 8))]))
    assert next((p.reason, p.units.size) for p in channels.pins) == ("`setitem` writes through a view", 12)
