"""What passes ask an oracle, and what it answers: see oracle.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.program import Program
from passes.batches import Batch
from passes.tasks import Task

__all__ = ["Finish", "Look", "Oracle", "Samples", "Usage"]

_T = TypeVar("_T")
Finish = Callable[[Program, Keep], Program]
"""What is still done to a program that was cut to a keep-set, shapes aside."""
Look = Callable[[Sequence[Task], Sequence[Batch]], _T]
"""Goes through the calibration set once for all of its tasks."""


@dataclass(frozen=True)
class Usage:
    """What an oracle has cost so far. A memoised answer is free."""

    evaluations: int = 0
    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Samples:
    """By task: losses of samples, float64 [n], or of whole batches where samples cannot be told apart.

    `total`: how many there are in all; `totals`: of the tasks whose label some lack.
    """

    values: Mapping[str, NDArray[np.float64]]
    total: int
    totals: Mapping[str, int] = field(default_factory=dict)

    def of(self, task: str) -> int:
        """How many there are of that task in all."""
        return self.totals.get(task, self.total)

    @property
    def looked(self) -> int:
        """How many these are, of the task of which there are fewest."""
        return min(len(values) for values in self.values.values())


class Oracle(Protocol):
    """Answers for one set of tasks on one calibration set; leaves program, random states and grads as they were."""

    @property
    def usage(self) -> Usage:
        """What the answers have cost."""

    def losses(
        self, program: Program, channels: ChannelGraph, keep: Keep, finish: Finish | None = None
    ) -> Mapping[str, float]:
        """Each task's loss, in the tasks' order, when `program`, which `channels` describe, is cut to `keep`.

        `finish`: what is done to the cut program before it is measured.
        A loss that is not finite is returned as it is: the search rejects it.
        """

    @property
    def batches(self) -> int:
        """How many batches there are."""

    def samples(
        self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None = None
    ) -> Samples:
        """What `losses` averages, of the first `batches` batches of a random order that is the same for all."""

    def unfit(self, keep: Keep, finish: Finish | None = None) -> Mapping[str, int]:
        """By task whose loss under `keep` was not finite: the number of the first batch on which it was not."""

    def gradients(self, program: Program) -> Mapping[str, Tensor]:
        """By parameter name: the gradient of the weighted sum of the tasks' mean losses."""

    def once(self, what: str, program: Program, look: Look[_T]) -> _T:
        """What `look` finds, which must depend on the program alone; remembered under `what` for the last program."""

    @property
    def parts(self) -> Sequence[int]:
        """Numbers of batches, ascending, of which it is worth to have a glimpse before all are asked for."""

    def glimpse(
        self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None = None
    ) -> Mapping[str, float]:
        """`losses` of so many batches, one of `parts`; `losses` does not run them again."""

    def reuse(self, megabytes: int, channels_last: bool | None = None) -> None:
        """Use so much memory from here on for activations that are used again, and forget those that are held.

        `channels_last`: whether networks run with channels innermost from here on; None: as before.
        """

    def ahead(self, node: str | None) -> None:
        """What follows the next answers is likely to change the network from that node on: it costs or saves time."""
