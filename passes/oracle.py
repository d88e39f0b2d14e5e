"""The oracle: what each task's loss would be on the calibration set if only `keep` were kept.

Losses are per-sample means in float64, in eval mode, on the network really cut: slicing is exact for every op.
Faster oracles stand behind the same protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.program import Program
from pagcp_ir.rewrite import materialise
from passes.data import Batch
from passes.seeding import borrowed_rng
from passes.tasks import Task, task_losses, weighted
from specs.diagnostics import DataError

__all__ = ["Finish", "Look", "Oracle", "RealOracle", "Usage"]

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

    def gradients(self, program: Program) -> Mapping[str, Tensor]:
        """By parameter name: the gradient of the weighted sum of the tasks' mean losses."""

    def once(self, what: str, program: Program, look: Look[_T]) -> _T:
        """What `look` finds, which must depend on the program alone; remembered under `what` for the last program."""


class RealOracle:
    """Cuts the program, runs every batch, remembers the answer for as long as the program stays the same."""

    def __init__(self, tasks: Sequence[Task], batches: Sequence[Batch]) -> None:
        self._tasks = tuple(tasks)
        self._batches = tuple(batches)
        self._samples = sum(batch.size for batch in self._batches)
        if not self._samples:
            raise DataError.one("D705", "the calibration split is empty")
        self._program: Program | None = None
        self._known: dict[tuple[bytes, Finish | None], dict[str, float]] = {}
        self._looks: dict[str, tuple[Program, Any]] = {}
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """What the answers have cost."""
        return self._usage

    def losses(
        self, program: Program, channels: ChannelGraph, keep: Keep, finish: Finish | None = None
    ) -> Mapping[str, float]:
        """See Oracle."""
        if self._program is not program:
            self._program, self._known = program, {}
        key = (keep.tobytes(), finish)
        if key not in self._known:
            cut = materialise(program, channels, keep)
            self._known[key] = self._measure(cut if finish is None else finish(cut, keep))
        return dict(self._known[key])

    def gradients(self, program: Program) -> Mapping[str, Tensor]:
        """See Oracle. The last program's gradients are remembered."""
        return self.once("gradients", program, lambda tasks, batches: self._differentiate(program))

    def once(self, what: str, program: Program, look: Look[_T]) -> _T:
        """See Oracle."""
        known = self._looks.get(what)
        if known is None or known[0] is not program:
            began = time.perf_counter()
            known = self._looks[what] = program, look(self._tasks, self._batches)
            self._spent(time.perf_counter() - began)
        found: _T = known[1]
        return found

    def _measure(self, program: Program) -> dict[str, float]:
        began = time.perf_counter()
        totals = {task.name: 0.0 for task in self._tasks}
        with borrowed_rng(0), torch.inference_mode():
            for batch in self._batches:
                output = program.module(*batch.inputs)
                for name, loss in task_losses(self._tasks, output, batch.target).items():
                    totals[name] += float(loss) * batch.size
        self._spent(time.perf_counter() - began)
        return {name: total / self._samples for name, total in totals.items()}

    def _differentiate(self, program: Program) -> dict[str, Tensor]:
        module = program.copy()
        parameters = dict(module.named_parameters())
        module.requires_grad_(True)
        module.zero_grad()
        with borrowed_rng(0), torch.enable_grad():
            for batch in self._batches:
                losses: Mapping[str, Any] = task_losses(self._tasks, module(*batch.inputs), batch.target)
                total = weighted(self._tasks, losses) * (batch.size / self._samples)
                total.backward()
        return {name: torch.zeros_like(p) if p.grad is None else p.grad.detach() for name, p in parameters.items()}

    def _spent(self, seconds: float) -> None:
        used = self._usage
        self._usage = Usage(used.evaluations + 1, used.images + self._samples, used.seconds + seconds)
