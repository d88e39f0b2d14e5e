"""Networks that once were cut wrongly, crashed, or were refused without need: each is cut exactly, or kept whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.planning import legal
from pagcp_ir.program import TensorSpec
from pagcp_ir.reference import Reference, masked
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify


class Hard(nn.Module):
    """y = a(x) [12] -> step; h, g read 12 channels, l is linear over 12, q and k over 8 positions."""

    def __init__(self, step: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(3, 12, 1)
        self.h, self.g = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 5, 1)
        self.l, self.q, self.k = nn.Linear(12, 4), nn.Linear(8, 12), nn.Linear(8, 12)
        self.p = nn.Parameter(torch.rand(12, 1, 1))
        self.long, self.one = nn.Parameter(torch.rand(24)), nn.Parameter(torch.rand(1))
        for name, part in parts.items():
            setattr(self, name, part)
        self.step = step

    def forward(self, x: Tensor) -> Any:
        return self.step(self, x, self.a(x))


@dataclass
class Out:
    logits: Tensor


def tied_depthwise() -> dict[str, nn.Module]:
    first, second = nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 12, 3, groups=12)
    second.weight = first.weight
    return {"d": first, "e": second}


def sequence(m: Hard, x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x[:, 0]
    return m.q(rows), m.k(rows).sigmoid().transpose(1, 2)


CASES: dict[str, Hard] = {
    "dataclass output": Hard(lambda m, x, y: (m.g(y), Out(m.h(y)))),
    "sizes beside the width": Hard(lambda m, x, y: m.h(y) / (y.shape[1] * y.shape[2] * y.shape[3])),
    "numel": Hard(lambda m, x, y: m.h(y) / (y.numel() / y.shape[0])),
    "width after flatten": Hard(lambda m, x, y: m.h(y) / y.flatten(1).shape[1]),
    "pool over channels": Hard(lambda m, x, y: m.l(F.avg_pool2d(y.permute(0, 2, 3, 1), 3, 1, 1))),
    "pool module over channels": Hard(lambda m, x, y: m.l(m.pool(y.permute(0, 2, 3, 1))), pool=nn.MaxPool2d(3, 1, 1)),
    "pool of three axes": Hard(lambda m, x, y: m.h(F.avg_pool3d(y, 3, 1, 1))),
    "clamp by a tensor": Hard(lambda m, x, y: m.h(torch.clamp(y, min=m.b(x)))),
    "clamp by a parameter": Hard(lambda m, x, y: m.h(y.clamp(min=m.p))),
    "scale from the width": Hard(
        lambda m, x, y: m.l(
            F.scaled_dot_product_attention(
                m.q(x[:, 0]), m.k(x[:, 0]), m.k(x[:, 1]), scale=m.q(x[:, 0]).shape[-1] ** -0.5
            )
        )
    ),
    "width in a factory": Hard(lambda m, x, y: m.h(y) * torch.full((1,), y.shape[1])),
    "width in a range": Hard(lambda m, x, y: m.h(y) * torch.arange(y.shape[1]).sum()),
    "groups from the width": Hard(lambda m, x, y: m.h(F.group_norm(y, y.shape[1] // 4))),
    "contraction after adding a number": Hard(
        lambda m, x, y: torch.add(sequence(m, x)[0], other=1) @ sequence(m, x)[1]
    ),
    "contraction after adding a size": Hard(lambda m, x, y: (sequence(m, x)[0] + x.shape[1]) @ sequence(m, x)[1]),
    "contraction after adding a parameter": Hard(lambda m, x, y: (sequence(m, x)[0] + m.one) @ sequence(m, x)[1]),
    "contraction of a quotient": Hard(lambda m, x, y: torch.einsum("bchw,bcij->bhwij", y / m.b(x), m.b(x)).flatten(1)),
    "write beside a stepped view": Hard(lambda m, x, y: (y[:, 1::2], y.add_(1), m.h(y))[2] + m.h(y)),
    "write to an identity of a view": Hard(lambda m, x, y: (m.same(y[:, 1::2]).add_(1), m.h(y))[1], same=nn.Identity()),
    "constant output": Hard(lambda m, x, y: (m.h(y), m.h(y).softmax(1).sum(1))),
    "integer output": Hard(lambda m, x, y: (m.h(y), m.h(y).argmax(1))),
    "cast to float": Hard(lambda m, x, y: m.h(y.float())),
    "softmax in float": Hard(lambda m, x, y: m.h(F.softmax(y, dim=2, dtype=torch.float32))),
    "depthwise with one weight": Hard(lambda m, x, y: m.h(m.e(m.d(y))), **tied_depthwise()),
    "weight norm of old": Hard(lambda m, x, y: m.h(m.w(y)), w=torch.nn.utils.weight_norm(nn.Conv2d(12, 12, 1))),
    "spectral norm": Hard(
        lambda m, x, y: m.h(m.w(y)), w=torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(12, 12, 1))
    ),
    "pool with indices": Hard(lambda m, x, y: m.h(m.pool(y)[0]), pool=nn.MaxPool2d(2, return_indices=True)),
    "norm along an axis": Hard(lambda m, x, y: m.h(y) / (y.norm(2, 1, keepdim=True) + 1)),
    "norm of positions": Hard(lambda m, x, y: m.l(y.norm(2, (2, 3)))),
    "sliced parameter": Hard(lambda m, x, y: m.h(y * m.long[:12].view(1, -1, 1, 1))),
    "narrow from the end": Hard(lambda m, x, y: m.n(y.narrow(1, -4, 4)), n=nn.Conv2d(4, 4, 1)),
    "empty slice": Hard(lambda m, x, y: m.h(torch.cat([y[:, 0:0], y], 1))),
    "squeeze": Hard(lambda m, x, y: m.l(F.adaptive_avg_pool2d(y, 1).squeeze())),
    "resize along channels": Hard(
        lambda m, x, y: m.l(F.interpolate(y.flatten(2).transpose(1, 2), size=12, mode="linear"))
    ),
    "tied autoencoder": Hard(lambda m, x, y: F.linear(torch.tanh(m.q(x[:, 0])), m.q.weight.t())),
    "mean with axis": Hard(lambda m, x, y: m.l(y.mean(axis=(2, 3)))),
    "maximum of two": Hard(lambda m, x, y: m.h(torch.max(y, m.b(x)))),
    "weight shared with attention": Hard(
        lambda m, x, y: m.mha(*[m.q(x[:, 0])] * 3)[0] + m.mha.out_proj(m.k(x[:, 0])),
        mha=nn.MultiheadAttention(12, 2, batch_first=True),
    ),
}
STATIC = {"contraction", "scale", "tied", "weight shared", "resize along"}


@pytest.mark.parametrize("name", CASES)
def test_exact_or_kept_whole(name: str) -> None:
    torch.manual_seed(0)
    model = CASES[name].eval()
    program = trace(model, [TensorSpec((1, 3, 8, 8))])
    channels = analyse(program)
    for seed in range(3):
        keep = channels.all
        for unit in np.random.default_rng(seed).permutation(np.flatnonzero(channels.free)):
            keep[unit] = np.random.default_rng(seed + int(unit)).random() < 0.4
            keep[unit] |= not legal(channels, keep)
        cut = materialise(program, channels, keep)
        result = verify(program, channels, keep, cut)
        assert result.status == "exact", result
        if not name.startswith(tuple(STATIC)):
            _same_at_another_size(masked(program, channels, keep), channels, keep, cut)


def _same_at_another_size(reference: Any, channels: Any, keep: Any, cut: Any) -> None:
    x = torch.rand(3, 3, 12, 10)
    with torch.no_grad():
        expected, got = Reference(reference, channels, keep)(x), cut.module(x)
    for one, two in zip(*(torch.utils._pytree.tree_leaves(v) for v in (expected, got)), strict=True):
        one, two = (v.logits if isinstance(v, Out) else v for v in (one, two))
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)
