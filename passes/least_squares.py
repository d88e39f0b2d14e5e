"""Ridge regression by normal equations: which change D of a layer's weights and c of its offset explain the residual r.

min over D, c of sum |r - x D - c|^2 + l |D|^2. Sums are kept in float64, once for each half of the images: the ridge l
is the multiple of the mean variance of x (RIDGES) under which each half predicts the other best: layers that are
ill-conditioned or undersampled stay near what they are. Errors count relative to the variance of the imitated output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Equations", "Fit"]

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
CHUNK = 1 << 22
"""Numbers that are converted to double precision at a time."""


@dataclass(frozen=True)
class Fit:
    """`weight` [groups, width, outputs], `offset` [groups, outputs]: what is added. `gain`: see Equations.fit."""

    weight: Tensor
    offset: Tensor
    gain: float
    ridge: float


class _Sums:
    """Of one half: n, and the sums of x, r, x x', x r', r r, and of the imitated output y and its square."""

    def __init__(self, groups: int, width: int, outputs: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64)

        self.count = 0
        self.x, self.r, self.rr = zeros(width), zeros(outputs), zeros(outputs)
        self.xx, self.xr = zeros(width, width), zeros(width, outputs)
        self.y, self.yy = zeros(outputs), zeros(outputs)

    def add(self, x: Tensor, r: Tensor, y: Tensor) -> None:
        """x [rows, groups, width], r and y [rows, groups, outputs]."""
        x, r, y = (value.to("cpu", torch.float64).movedim(0, 1) for value in (x, r, y))
        self.count += x.shape[1]
        self.x += x.sum(1)
        self.r += r.sum(1)
        self.rr += r.square().sum(1)
        self.y += y.sum(1)
        self.yy += y.square().sum(1)
        self.xx.baddbmm_(x.mT, x)
        self.xr.baddbmm_(x.mT, r)

    def merge(self, other: _Sums) -> None:
        """Become the sums of both."""
        self.count += other.count
        for name in ("x", "r", "rr", "xx", "xr", "y", "yy"):
            getattr(self, name).add_(getattr(other, name))

    @property
    def variance(self) -> Tensor:
        """Of the imitated outputs: [groups, outputs]."""
        count = max(self.count, 1)
        return (self.yy / count - (self.y / count).square()).clamp(min=0)

    def solve(self, ridge: float, intercept: bool) -> tuple[Tensor, Tensor] | None:
        """D and c under that multiple of the mean variance; None where the equations cannot be solved."""
        count = max(self.count, 1)
        xx, xr = self.xx, self.xr
        if intercept:
            xx = xx - self.x.unsqueeze(2) * self.x.unsqueeze(1) / count
            xr = xr - self.x.unsqueeze(2) * self.r.unsqueeze(1) / count
        else:
            xx = xx.clone()
        diagonal = xx.diagonal(dim1=1, dim2=2)
        diagonal += ridge * diagonal.mean(1, keepdim=True).clamp(min=1e-30)
        factor, failed = torch.linalg.cholesky_ex(xx)
        if bool(failed.any()):
            return None
        weight = torch.cholesky_solve(xr, factor)
        offset = (self.r - torch.einsum("gd,gdo->go", self.x, weight)) / count
        return weight, offset if intercept else torch.zeros_like(offset)

    def error(self, weight: Tensor, offset: Tensor) -> Tensor:
        """sum (r - x D - c)^2 per output: [groups, outputs]."""
        explained = 2 * (weight * self.xr).sum(1) - (weight * (self.xx @ weight)).sum(1)
        left = self.r - torch.einsum("gd,gdo->go", self.x, weight)
        return (self.rr - explained - 2 * offset * left + self.count * offset.square()).clamp(min=0)


class Equations:
    """Of one layer. `width` 0: nothing but the offset is fitted."""

    def __init__(self, groups: int, width: int, outputs: int, intercept: bool) -> None:
        self._halves = tuple(_Sums(groups, width, outputs) for _ in range(2))
        self._intercept, self._width = intercept, width

    @staticmethod
    def bytes(groups: int, width: int, outputs: int) -> int:
        """The memory that it takes at its peak."""
        return 8 * groups * (5 * width * width + 5 * width * outputs)

    def add(self, x: Tensor, r: Tensor, y: Tensor, half: Tensor) -> None:
        """Rows: x [rows, groups, width], residuals r and imitated outputs y [rows, groups, outputs], and their half."""
        for number, sums in enumerate(self._halves):
            mine = (half == number).nonzero()[:, 0]
            for rows in torch.split(mine, max(1, CHUNK // max(1, x[0].numel() + r[0].numel()))):
                sums.add(x[rows], r[rows], y[rows])

    def fit(self) -> Fit | None:
        """What each half predicts best in the other, fitted to both; None when it predicts no better than nothing.

        `gain`: the share of the error that it takes away there. The equations are spent.
        """
        a, b = self._halves
        if self._width == 0:
            return self._offset()
        if not a.count or not b.count:
            return None
        scale = a.variance + b.variance
        scale = scale.clamp(min=max(1e-8 * float(scale.mean()), 1e-30))
        zero = torch.zeros_like(a.xr), torch.zeros_like(a.r)
        plain = _relative(a, *zero, scale) + _relative(b, *zero, scale)
        best, found = plain, None
        for ridge in RIDGES:
            made = a.solve(ridge, self._intercept), b.solve(ridge, self._intercept)
            if made[0] is None or made[1] is None:
                continue
            error = _relative(b, *made[0], scale) + _relative(a, *made[1], scale)
            if error < best:
                best, found = error, ridge
        if found is None:
            return None
        a.merge(b)
        solved = a.solve(found, self._intercept)
        return None if solved is None else Fit(*solved, gain=1 - best / plain, ridge=found)

    def _offset(self) -> Fit | None:
        a, b = self._halves
        a.merge(b)
        if not self._intercept or not a.count:
            return None
        offset = a.r / a.count
        before, after = a.rr.sum(), a.error(a.xr, offset).sum()
        return Fit(a.xr, offset, gain=float(1 - after / before) if before > 0 else 0.0, ridge=0.0)


def _relative(sums: _Sums, weight: Tensor, offset: Tensor, scale: Tensor) -> float:
    return float((sums.error(weight, offset) / scale).sum())
