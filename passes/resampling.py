"""Metrics that can be asked again: what would they be, had the split held other samples of the same kind?

A resample draws as many units from the split as it has, with replacement. Where a metric adds up its state (accuracies,
errors, PSNR, IoU: torchmetrics states that are summed), each unit's share of it is kept, and a resample is a sum of
shares. Else outputs and targets are kept, and the metric is computed anew. Units are samples where outputs and targets
have them first and the metric of single samples put together is that of the split; else they are batches.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from passes.metrics import Metric, Whole

__all__ = ["Draws", "Meter", "Resampled", "Units"]

KEPT = 2**30
"""Bytes of outputs and targets that are kept for one metric."""
SINGLES, SHARES = 20_000, 2**28
"""Samples whose shares are looked at one by one, and bytes of these; of a larger split the batches are drawn."""
CLOSE = 1e-4
"""How far the metric of all units put together may be from that of the split, relatively."""
_FAILS = (RuntimeError, ValueError, TypeError, IndexError)
Draws = NDArray[np.int64]
Share = NDArray[np.float64]


class Units(Protocol):
    """What can be drawn from; `again`: whether a resample runs the metric again over all that was drawn."""

    again: bool

    def __len__(self) -> int:
        """How many there are."""

    def value(self, drawn: Draws) -> float:
        """The metric of the units `drawn`."""


@dataclass(frozen=True)
class Resampled:
    """A metric's value on a split, and what it can be drawn anew from: samples, or batches.

    `note`: why from nothing.
    """

    value: float
    samples: Units | None = None
    batches: Units | None = None
    note: str = ""


@dataclass
class Meter:
    """Measures a task's metric batch by batch. `make` gives a new metric, `read` asks one for its number.

    `fed`: with how many batches.
    """

    make: Callable[[], Metric]
    read: Callable[[Metric], float]
    resample: bool = False
    fed: int = 0
    metric: Metric = field(init=False)
    _keeper: _Shares | _Kept | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.metric = self.make()
        if self.resample:
            self._keeper = _Shares(self.make()) if _adds_up(self.metric) else _Kept()

    def update(self, output: Any, target: Any) -> None:
        """Take in one batch; raises what the metric raises."""
        self.fed += 1
        if self._keeper is None:
            self.metric.update(output, target)
        else:
            self._keeper.update(self.metric, output, target)

    def result(self) -> Resampled:
        """After the last batch."""
        value = self.read(self.metric)
        if self._keeper is None:
            return Resampled(value)
        samples, batches = (self._right(units, value) for units in self._keeper.units(self))
        return Resampled(value, samples, batches, self._keeper.note)

    def _right(self, units: Units | None, value: float) -> Units | None:
        """The units, if all of them together have the value of the split."""
        if units is None or not len(units):
            return None
        try:
            found = units.value(np.arange(len(units)))
        except _FAILS:
            return None
        return units if math.isclose(found, value, rel_tol=CLOSE, abs_tol=1e-9) else None


class _Shares:
    """Every unit's share of a metric's state. `single`: a metric to feed samples one by one."""

    note = ""

    def __init__(self, single: Any) -> None:
        self._single: Any = single
        self._samples: list[Share] = []
        self._batches: list[Share] = []

    def update(self, metric: Any, output: Any, target: Any) -> None:
        before = _state(metric)
        metric.update(output, target)
        after = _state(metric)
        # a state may get its shape with the first batch; before that it is zero
        self._batches.append(after - before if after.shape == before.shape else after)
        size = _size((output, target))
        if size is None or len(self._samples) + size > min(SINGLES, SHARES // after.nbytes):
            self._single, self._samples = None, []
        for i in range(size or 0):
            if self._single is None:
                break
            try:
                self._single.reset()
                self._single.update(*pytree.tree_map(lambda leaf: leaf[i : i + 1], (output, target)))  # noqa: B023
                self._samples.append(_state(self._single))
            except _FAILS:
                self._single = None

    def units(self, meter: Meter) -> tuple[Units | None, Units | None]:
        shapes = {name: tuple(getattr(meter.metric, name).shape) for name in _summed(meter.metric)}
        samples = self._samples if self._single is not None else []
        return tuple(  # type: ignore[return-value]
            _Sums(copy.deepcopy(meter.metric), shapes, np.stack(shares), meter.read) if _alike(shares) else None
            for shares in (samples, self._batches)
        )


@dataclass
class _Sums:
    """Units whose shares, float64 [units, numbers], are added up into the state of `metric`."""

    metric: Any
    shapes: dict[str, tuple[int, ...]]
    shares: Share
    read: Callable[[Metric], float]
    again = False

    def __len__(self) -> int:
        return len(self.shares)

    def value(self, drawn: Draws) -> float:
        state = np.bincount(drawn, minlength=len(self.shares)).astype(np.float64) @ self.shares
        at = 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape, dtype=np.int64))
            part = torch.from_numpy(state[at : at + size].reshape(shape))
            setattr(self.metric, name, part.to(getattr(self.metric, name)))
            at += size
        self.metric._computed = None
        return self.read(self.metric)


class _Kept:
    """The outputs and targets of all batches, on the CPU."""

    def __init__(self) -> None:
        self._parts: list[tuple[Any, Any]] = []
        self._bytes = 0
        self.note = ""

    def update(self, metric: Any, output: Any, target: Any) -> None:
        metric.update(output, target)
        if self.note:
            return
        self._bytes += sum(leaf.nbytes for leaf in pytree.tree_leaves((output, target)) if isinstance(leaf, Tensor))
        if self._bytes > KEPT:
            self._parts, self.note = [], f"its outputs take more than {KEPT >> 30} GiB"
            return
        self._parts.append(pytree.tree_map_only(Tensor, lambda leaf: leaf.detach().cpu(), (output, target)))

    def units(self, meter: Meter) -> tuple[Units | None, Units | None]:
        if self.note:
            return None, None
        sizes = [_size(part) for part in self._parts]
        joined = None if None in sizes else _joined(self._parts)
        samples = None if joined is None else _Rows(joined, sizes[0] or 1, meter)
        return samples, _Batches(self._parts, meter)


@dataclass
class _Rows:
    """Samples, as rows of the tensors in (output, target). The metric sees them in batches of `size`."""

    joined: Any
    size: int
    meter: Meter
    again = True

    def __len__(self) -> int:
        return _size(self.joined) or 0

    def value(self, drawn: Draws) -> float:
        metric, rows = self.meter.make(), torch.from_numpy(drawn)
        for part in (
            (rows,)
            if isinstance(metric, Whole)
            else torch.tensor_split(rows, tuple(range(self.size, len(rows), self.size)))
        ):
            metric.update(*pytree.tree_map(lambda leaf: leaf[part], self.joined))  # noqa: B023
        return self.meter.read(metric)


@dataclass
class _Batches:
    """Whole batches."""

    parts: list[tuple[Any, Any]]
    meter: Meter
    again = True

    def __len__(self) -> int:
        return len(self.parts)

    def value(self, drawn: Draws) -> float:
        metric = self.meter.make()
        for index in drawn.tolist():
            metric.update(*self.parts[index])
        return self.meter.read(metric)


def timed(units: Units) -> float:
    """Seconds that one resample takes."""
    began = time.perf_counter()
    units.value(np.arange(len(units)))
    return time.perf_counter() - began


def _adds_up(metric: Any) -> bool:
    """Whether a torchmetrics metric says that its state is a sum; what is constant may come with it."""
    reductions, defaults = getattr(metric, "_reductions", None), getattr(metric, "_defaults", None)
    if not isinstance(reductions, dict) or not isinstance(defaults, dict) or any(metric.children()):
        return False
    tensors = all(isinstance(default, Tensor) for default in defaults.values())
    kinds = {getattr(reduction, "__name__", "") for reduction in reductions.values()}
    return tensors and bool(_summed(metric)) and kinds <= {"dim_zero_sum", "dim_zero_mean"}


def _summed(metric: Any) -> list[str]:
    found = metric._reductions.items()
    return [name for name, reduction in found if getattr(reduction, "__name__", "") == "dim_zero_sum"]


def _state(metric: Any) -> Share:
    parts = [getattr(metric, name).detach().double().cpu().reshape(-1) for name in _summed(metric)]
    found: Share = torch.cat(parts).numpy()
    return found


def _alike(shares: list[Share]) -> bool:
    return bool(shares) and all(share.shape == shares[0].shape for share in shares)


def _size(tree: Any) -> int | None:
    """The number of samples of a tree whose leaves are tensors with the samples first."""
    leaves = pytree.tree_leaves(tree)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves):
        return None
    sizes = {len(leaf) for leaf in leaves}
    return sizes.pop() if len(sizes) == 1 else None


def _joined(parts: list[Any]) -> Any:
    """Trees put together along their first axis; None where their forms or shapes differ."""
    flat = [pytree.tree_flatten(part) for part in parts]
    forms = {str(form) for _, form in flat}
    shapes = {tuple(leaf.shape[1:] for leaf in leaves) for leaves, _ in flat}
    if len(forms) != 1 or len(shapes) != 1:
        return None
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return pytree.tree_unflatten([torch.cat(column) for column in columns], flat[0][1])
