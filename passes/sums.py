"""What an oracle knows of one keep-set: what its first batches add up to, in their order, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.journal import Numbers, Remembered
from specs.diagnostics import DataError

__all__ = ["Found", "Sums", "unlabelled"]

Found = Mapping[str, tuple[NDArray[np.float64], int]]
"""Of a batch, by task: losses, and of how many samples they are the mean; not of a task whose label none has."""


@dataclass
class Sums:
    """What is known of one keep-set: sums over the first `done` batches, and their samples where these are kept.

    `asked`: so many batches were asked for; those beyond were done because processes had nothing else to do.
    `parts`: by those of `marks` that are done, each task's loss on so many batches. `given`: whether it was an answer.
    """

    totals: dict[str, float]
    counts: dict[str, int]
    values: dict[str, list[NDArray[np.float64]]]
    done: int = 0
    asked: int = 0
    unfit: dict[str, int] = field(default_factory=dict)
    marks: tuple[int, ...] = ()
    parts: dict[int, dict[str, float]] = field(default_factory=dict)
    given: bool = False

    def add(self, found: Found, *, keep: bool) -> None:
        """Add the next batch."""
        for name in self.totals:
            values, size = found.get(name, (np.empty(0), 0))
            if size:
                self.totals[name] += float(values.mean()) * size
                self.counts[name] += size
            if keep:
                self.values[name].append(values)
            if not np.isfinite(values).all():
                self.unfit.setdefault(name, self.done)
        self.done += 1
        if self.done in self.marks:
            self.parts[self.done] = {
                name: total / (self.counts[name] or math.nan) for name, total in self.totals.items()
            }

    def mean(self, name: str) -> float:
        """A task's loss."""
        if not self.counts[name]:
            raise unlabelled(name)
        return self.totals[name] / self.counts[name]

    def since(self, first: int) -> tuple[dict[str, Any], dict[str, Numbers]]:
        """What batches from `first` on made of it, for `take`: fields, and rows of numbers."""
        new = {name: parts[first:] for name, parts in self.values.items() if parts[first:]}
        sizes = {name: [part.size for part in parts] for name, parts in new.items()}
        fields = {"totals": self.totals, "counts": self.counts, "unfit": self.unfit, "done": self.done, "sizes": sizes}
        fields["parts"] = {str(mark): losses for mark, losses in self.parts.items()}
        return fields, {name: np.concatenate(parts) for name, parts in new.items()}

    def take(self, known: Remembered) -> None:
        """Go on to where it was when that was remembered."""
        self.totals = {name: float(total) for name, total in known.fields["totals"].items()}
        self.counts = {name: int(count) for name, count in known.fields["counts"].items()}
        self.unfit = {name: int(number) for name, number in known.fields["unfit"].items()}
        self.done = int(known.fields["done"])
        for mark, losses in known.fields["parts"].items():
            self.parts[int(mark)] = {name: float(loss) for name, loss in losses.items()}
        for name, sizes in known.fields["sizes"].items():
            self.values[name] += np.split(known.rows[name], np.cumsum(sizes)[:-1])


def unlabelled(name: str) -> DataError:
    """The error for a task of which no sample has the label."""
    return DataError.one("D715", f"no sample of the calibration split has a label for the task {name!r}")
