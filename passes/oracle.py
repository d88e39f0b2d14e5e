"""The oracle: what each task's loss would be on the calibration set if only `keep` were kept.

Losses are per-sample means in float64, in eval mode, on the network really cut: slicing is exact for every op. A last
short batch is merged into the one before: batch 1 takes other kernels. Who asks for samples gets them batch by batch,
from the calibration set in a seeded random order, remembered, so that asking for more costs only what is more.
Activations of prefixes that do not change are used again (prefix.py), which changes no bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.cost import layer_costs
from pagcp_ir.program import Program
from pagcp_ir.rewrite import materialise
from passes.answers import Answers
from passes.data import Batch
from passes.journal import Numbers, Remembered
from passes.prefix import Prefixes
from passes.samples import EachSample, merged, separable, shuffled
from passes.seeding import borrowed_rng
from passes.tasks import Task, task_losses, weighted
from specs.diagnostics import DataError

__all__ = ["Finish", "Look", "Oracle", "RealOracle", "Samples", "Usage"]

_T = TypeVar("_T")
Finish = Callable[[Program, Keep], Program]
"""What is still done to a program that was cut to a keep-set, shapes aside."""
Look = Callable[[Sequence[Task], Sequence[Batch]], _T]
"""Goes through the calibration set once for all of its tasks."""
_Key = tuple[bytes, "Finish | None"]
_Run = Callable[[int, Batch], Any]
"""What a cut program makes of the batch of that number."""
HELD = 4
"""Cut programs that are held until all of their batches are done."""


@dataclass(frozen=True)
class Usage:
    """What an oracle has cost so far. A memoised answer is free."""

    evaluations: int = 0
    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Samples:
    """By task: losses of samples, float64 [n], or of whole batches where samples cannot be told apart.

    `total`: how many there are in all.
    """

    values: Mapping[str, NDArray[np.float64]]
    total: int


@dataclass
class _Answer:
    """What is known of one keep-set: sums over the first `done` batches, and their samples where these are kept."""

    totals: dict[str, float]
    values: dict[str, list[NDArray[np.float64]]]
    done: int = 0
    unfit: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, values: NDArray[np.float64], number: int, size: int, *, keep: bool) -> None:
        """Add a task's losses of batch `number`, whose mean stands for `size` samples."""
        self.totals[name] += float(values.mean()) * size
        if keep:
            self.values[name].append(values)
        if not np.isfinite(values).all():
            self.unfit.setdefault(name, number)

    def since(self, first: int) -> tuple[dict[str, Any], dict[str, Numbers]]:
        """What batches from `first` on made of it, for `take`: fields, and rows of numbers."""
        new = {name: parts[first:] for name, parts in self.values.items() if parts[first:]}
        sizes = {name: [part.size for part in parts] for name, parts in new.items()}
        fields = {"totals": self.totals, "unfit": self.unfit, "done": self.done, "sizes": sizes}
        return fields, {name: np.concatenate(parts) for name, parts in new.items()}

    def take(self, known: Remembered) -> None:
        """Go on to where it was when that was remembered."""
        self.totals = {name: float(total) for name, total in known.fields["totals"].items()}
        self.unfit = {name: int(number) for name, number in known.fields["unfit"].items()}
        self.done = int(known.fields["done"])
        for name, sizes in known.fields["sizes"].items():
            self.values[name] += np.split(known.rows[name], np.cumsum(sizes)[:-1])


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

    def reuse(self, megabytes: int) -> None:
        """Use so much memory from here on for activations that are used again, and forget those that are held."""


class RealOracle:
    """Cuts the program, runs every batch, remembers the answer for as long as the program stays the same."""

    def __init__(self, tasks: Sequence[Task], batches: Sequence[Batch], answers: Answers | None = None) -> None:
        self._tasks = tuple(tasks)
        self._batches = merged(batches)
        self._samples = sum(batch.size for batch in self._batches)
        if not self._samples:
            raise DataError.one("D705", "the calibration split is empty")
        self._shuffled = False
        self._each: EachSample | None = None
        self._program: Program | None = None
        self._known: dict[_Key, _Answer] = {}
        self._runs: dict[_Key, _Run] = {}
        self._megabytes = 0
        self._prefixes: Prefixes | None = None
        self._looks: dict[str, tuple[Program, Any]] = {}
        self._usage = Usage()
        self._answers = answers or Answers()

    @property
    def usage(self) -> Usage:
        """What the answers have cost."""
        return self._usage

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def losses(
        self, program: Program, channels: ChannelGraph, keep: Keep, finish: Finish | None = None
    ) -> Mapping[str, float]:
        """See Oracle."""
        answer = self._asked(program, channels, keep, len(self._batches), finish)
        return {name: total / self._samples for name, total in answer.totals.items()}

    def samples(
        self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None = None
    ) -> Samples:
        """See Oracle. The calibration set is shuffled when this is asked for the first time."""
        if not self._shuffled:
            self._batches, self._shuffled = shuffled(self._batches), True
            self._each = separable(program, self._tasks, self._batches[0])
            self._forget()
        answer = self._asked(program, channels, keep, batches, finish)
        total = self._samples if self._each is not None else len(self._batches)
        return Samples({name: np.concatenate(parts[:batches]) for name, parts in answer.values.items()}, total)

    def unfit(self, keep: Keep, finish: Finish | None = None) -> Mapping[str, int]:
        """See Oracle."""
        answer = self._known.get((keep.tobytes(), finish))
        return {} if answer is None else dict(answer.unfit)

    def gradients(self, program: Program) -> Mapping[str, Tensor]:
        """See Oracle. The last program's gradients are remembered."""
        return self.once("gradients", program, lambda tasks, batches: self._differentiate(program))

    def once(self, what: str, program: Program, look: Look[_T]) -> _T:
        """See Oracle."""
        known = self._looks.get(what)
        if known is None or known[0] is not program:
            began = time.perf_counter()
            known = self._looks[what] = program, look(self._tasks, self._batches)
            self._spent(time.perf_counter() - began, self._samples)
        found: _T = known[1]
        return found

    def reuse(self, megabytes: int) -> None:
        """See Oracle."""
        self._megabytes, self._prefixes, self._runs = megabytes, None, {}

    def _forget(self) -> None:
        """Forget the answers: they are those of another program, or of other batches."""
        self._known, self._runs, self._prefixes = {}, {}, None

    def _asked(
        self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None
    ) -> _Answer:
        """The answer for that keep-set, gone on with until so many batches are done."""
        if self._program is not program:
            self._program = program
            self._forget()
        key = (keep.tobytes(), finish)
        if key not in self._known:
            names = [task.name for task in self._tasks]
            self._known[key] = _Answer(dict.fromkeys(names, 0.0), {name: [] for name in names})
        answer = self._known[key]
        if answer.done >= batches:
            return answer
        first = answer.done
        name = self._answers.name(program, keep, finish, self._shuffled, first, batches)
        if (known := self._answers.recall(name)) is not None:
            answer.take(known)
            self._spent(float(known.fields["seconds"]), int(known.fields["images"]), first == 0)
            return answer
        before = self._usage
        if key not in self._runs:
            cut = materialise(program, channels, keep)
            while len(self._runs) >= HELD:
                del self._runs[next(iter(self._runs))]
            self._runs[key] = self._run(program, channels, cut if finish is None else finish(cut, keep))
        self._go_on(answer, self._runs[key], batches)
        fields, rows = answer.since(first)
        spent = {"images": self._usage.images - before.images, "seconds": self._usage.seconds - before.seconds}
        self._answers.remember(name, {**fields, **spent}, rows)
        if answer.done == len(self._batches):
            del self._runs[key]
        return answer

    def _run(self, program: Program, channels: ChannelGraph, cut: Program) -> _Run:
        """How to run `cut`, which was made of `program`."""
        if not self._megabytes:
            return lambda number, batch: cut.module(*batch.inputs)
        if self._prefixes is None:
            rows = zip(channels.layers, layer_costs(channels, channels.all), strict=True)
            work = {layer.node: row.before.macs for layer, row in rows}
            self._prefixes = Prefixes(program, self._megabytes, self._samples, work)
        return self._prefixes.run(cut)

    def _go_on(self, answer: _Answer, run: _Run, batches: int) -> None:
        began, first, images = time.perf_counter(), answer.done == 0, 0
        with borrowed_rng(0), torch.inference_mode():
            for number in range(answer.done, batches):
                batch = self._batches[number]
                if self._shuffled:  # the same draws whether or not the batches before were run just now
                    torch.manual_seed(number)
                for name, values in self._values(run(number, batch), batch).items():
                    answer.add(name, values, number, batch.size, keep=self._shuffled)
                images += batch.size
                answer.done += 1
        self._spent(time.perf_counter() - began, images, first)

    def _values(self, output: Any, batch: Batch) -> dict[str, NDArray[np.float64]]:
        """Each task's losses of the batch's samples where they were asked for and can be told apart, or its mean."""
        if self._each is not None:
            return self._each(self._tasks, output, batch)
        losses = task_losses(self._tasks, output, batch.target)
        return {name: np.array([float(loss)]) for name, loss in losses.items()}

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

    def _spent(self, seconds: float, images: int, first: bool = True) -> None:
        used = self._usage
        self._usage = Usage(used.evaluations + first, used.images + images, used.seconds + seconds)
