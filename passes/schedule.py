"""The tolerance schedule of PAGCP (arXiv 2303.11923; ALGORITHMS.md 1.1): d_i = d_0 * lambda^i, prod_i (1 + d_i) = T.

`least_growth` finds the smallest T that meets the budgets. A search tells for which lambda it would have decided alike,
so that the bisection steps from one such span to the next, and stops where two of them touch: it is exact wherever
more tolerance cuts no less. The oracle remembers, so that spans which share decisions share their evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq

from passes.space import Outcome
from specs.diagnostics import PassError

__all__ = ["growth", "least_growth", "total_of"]

SMALLEST, LARGEST = 1e-3, 1e6
"""lambda below SMALLEST leaves the first group alone with a tolerance; T stays below LARGEST."""
CLOSE = 1e-3
"""Where two growths are relatively that close, the larger one is taken for the smallest."""


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


def least_growth(
    search: Callable[[float], Outcome], met: Callable[[Outcome], bool], tolerance: float, n: int
) -> tuple[float, Outcome]:
    """The smallest growth whose outcome meets the budgets, and that outcome; the largest one when none does."""
    low, high, factor, most = 0.0, math.inf, 1.0, growth(tolerance, LARGEST, n)
    best: Outcome | None = None
    while True:
        outcome = search(factor)
        if met(outcome):
            # a little above the end of the span, which rounding must not cross
            best, high = outcome, min(factor, max(outcome.span[0] * (1 + 1e-9), SMALLEST))
        else:
            low = max(low, factor, outcome.span[1])
        if best is None and low >= most:
            return factor, outcome
        if best is not None and high <= max(low, SMALLEST) * (1 + CLOSE):
            return high, best
        factor = min(2 * low, most) if high == math.inf else math.sqrt(max(low, SMALLEST) * high)


def _log_total(tolerance: float, factor: float, n: int) -> float:
    # in logarithms; factor^i may overflow where the product is far too large anyway
    with np.errstate(over="ignore"):
        return float(np.log1p(tolerance * np.power(factor, np.arange(n, dtype=np.float64))).sum())
