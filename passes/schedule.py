"""The tolerance schedule of PAGCP (arXiv 2303.11923; ALGORITHMS.md 1.1): d_i = d_0 * lambda^i, prod_i (1 + d_i) = T."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from specs.diagnostics import PassError

__all__ = ["growth", "total_of"]


def growth(tolerance: float, total: float, n: int) -> float:
    """lambda > 0 with prod_{i<n} (1 + tolerance * lambda^i) = total; 1.0 for a single group.

    The product grows with lambda from 1 + tolerance on, so that `total` must exceed that (PassError P403).
    """
    if total <= 1 + tolerance:
        raise PassError.one("P403", f"total must exceed 1 + tolerance = {1 + tolerance:g}, got {total:g}")
    if n <= 1:
        return 1.0

    def excess(factor: float) -> float:
        return min(_log_total(tolerance, factor, n), 1e6) - math.log(total)

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-14, rtol=1e-14))


def total_of(tolerance: float, factor: float, n: int) -> float:
    """prod_{i<n} (1 + tolerance * factor^i): what all groups together may do to a loss."""
    return math.exp(min(_log_total(tolerance, factor, n), 700.0))


def _log_total(tolerance: float, factor: float, n: int) -> float:
    # in logarithms; factor^i may overflow where the product is far too large anyway
    with np.errstate(over="ignore"):
        return float(np.log1p(tolerance * np.power(factor, np.arange(n, dtype=np.float64))).sum())
