"""Small networks that the random graphs once found cut or counted wrongly, or refused without need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from pagcp_ir.program import TensorSpec
from tests.ir.nets.check import check_model


class Small(nn.Module):
    """a(x) [N, 12, 8, 4] -> step; h reads 12 channels, g 4, l a vector."""

    def __init__(self, step: Callable[..., Any], l: int = 12, **parts: nn.Module) -> None:  # noqa: E741
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.h, self.l = nn.Conv2d(12, 4, 1), nn.Linear(l, 4)
        self.w = nn.Parameter(torch.randn(12, 3, 3, 3) / 5)
        for name, part in parts.items():
            setattr(self, name, part)
        self.step = step

    def forward(self, x: Tensor) -> Any:
        return self.step(self, x, F.silu(self.a(x)))


class Branch(nn.Sequential):
    """Kept whole: torch.fx cannot trace it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.detach().abs().sum()) >= 0 else x


CASES: dict[str, Callable[[], Small]] = {
    "einsum that sums nothing": lambda: Small(
        lambda m, x, y: m.h(torch.einsum("nchw,nc->nchw", y, y.mean((2, 3))) + y)
    ),
    "einsum with a letter of one operand alone": lambda: Small(
        lambda m, x, y: m.h(y * torch.einsum("nchw,nkhw->nc", y, m.b(x))[:, :, None, None])
    ),
    "weight norm of old": lambda: Small(lambda m, x, y: m.h(m.n(y)), n=weight_norm(nn.Conv2d(12, 12, 3, padding=1))),
    "weight norm": lambda: Small(
        lambda m, x, y: m.h(m.n(y)), n=parametrizations.weight_norm(nn.Conv2d(12, 12, 3, padding=1))
    ),
    "groups from a width": lambda: Small(lambda m, x, y: m.h(F.conv2d(y, m.w, padding=1, groups=y.shape[1] // 3))),
    "groups of a transposed convolution by position": lambda: Small(
        lambda m, x, y: m.h(torch.cat([F.conv_transpose2d(y, m.w, None, 1, 1, 0, 2)] * 2, 1))
    ),
    "free channels beside the input's, shuffled": lambda: Small(
        lambda m, x, y: m.l(
            torch.cat([x, m.n(y)], 1).reshape(-1, 2, 4, 8, 4).transpose(1, 2).reshape(-1, 8, 8, 4).mean((2, 3))
        ),
        l=8,
        n=nn.Conv2d(12, 5, 1),
    ),
    "every other row of a pixel shuffle": lambda: Small(
        lambda m, x, y: m.n(F.pixel_shuffle(m.h(y), 2)[:, :, ::2, ::2]), h=nn.Conv2d(12, 8, 1), n=nn.Conv2d(2, 3, 1)
    ),
    "view of a fixed size": lambda: Small(lambda m, x, y: m.l(y.view(-1, 12 * 8 * 4)), l=12 * 8 * 4),
    "norm of a fixed size": lambda: Small(
        lambda m, x, y: m.h(m.n(y)), n=nn.LayerNorm([12, 8, 4], elementwise_affine=False)
    ),
    "a branch on data keeps its costs": lambda: Small(
        lambda m, x, y: m.h(m.n(y)), n=Branch(nn.Conv2d(12, 12, 3, padding=1))
    ),
    "factories of computed sizes": lambda: Small(
        lambda m, x, y: m.h(y * torch.ones(y.shape[1], 1, 1) + torch.zeros(x.shape[0], 12, *y.shape[2:]))
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:Accessing the data pointer:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_found(name: str) -> None:
    torch.manual_seed(0)
    model = CASES[name]().eval()
    for seed in range(4):
        check_model(model, [TensorSpec((1, 3, 8, 4))], seed)
