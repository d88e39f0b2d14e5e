"""The oracle: what each task's loss would be on the calibration set if only `keep` were kept.

Losses are means in float64 over the samples that have the task's label, in eval mode, on the network really cut:
slicing is exact for every op. A last short batch is merged into the one before: batch 1 takes other kernels. Who asks
for samples gets them batch by batch, from the calibration set in a seeded random order, remembered, so that asking for
more costs only what is more, as it does after a glimpse at a part. Activations of prefixes that do not change are used
again (prefix.py), which changes no bit. Several processes share the batches, never one batch, and add up in the order
of the batches: no bit depends on how many there are.
"""

from __future__ import annotations

import itertools
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.cost import layer_costs
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise
from passes.answers import Answers
from passes.batches import Batch
from passes.feeding import feeding
from passes.layout import in_channels_last, refusing
from passes.prefix import Prefixes
from passes.processes import broadcast_object, gather_in_order, world
from passes.questions import Finish, Look, Oracle, Samples, Usage
from passes.samples import EachSample, merged, separable, shuffled
from passes.seeding import borrowed_rng, reseed
from passes.sums import Found, Sums, unlabelled
from passes.tasks import Task, batch_losses, labelled, weighted
from specs.diagnostics import DataError

__all__ = ["Finish", "Look", "Oracle", "RealOracle", "Samples", "Usage"]

_T = TypeVar("_T")
_Key = tuple[bytes, "Finish | None"]
_Run = Callable[[int, Batch], Any]
"""What a cut program makes of the batch of that number."""
SCOUTED, WORTH = 256, 8
"""Samples that a part of the calibration set has, and how many times as many there must be for that to be worth it."""
HELD = 4
"""Cut programs that are held until all of their batches are done."""


class RealOracle:
    """Cuts the program, runs every batch, remembers the answer for as long as the program stays the same."""

    def __init__(self, tasks: Sequence[Task], batches: Sequence[Batch], answers: Answers | None = None) -> None:
        self._tasks = tuple(tasks)
        self._batches = merged(batches)
        self.size = sum(batch.size for batch in self._batches)
        if not self.size:
            raise DataError.one("D705", "the calibration split is empty")
        self._labels = {t.name: sum(labelled(t, b.target, b.size) for b in self._batches) for t in tasks}
        for name in (name for name, count in self._labels.items() if not count):
            raise unlabelled(name)
        self._shuffled = False
        self._each: EachSample | None = None
        self._program: Program | None = None
        self._known: dict[_Key, Sums] = {}
        self._runs: dict[_Key, _Run] = {}
        self._megabytes = 0
        self._prefixes: Prefixes | None = None
        self._looks: dict[str, tuple[Program, Any]] = {}
        self._usage = Usage()
        self._parts: tuple[int, ...] | None = None
        self._ahead: str | None = None
        self._channels_last = False
        self._metrics: Oracle | None = None
        self.answers = answers or Answers()

    @property
    def usage(self) -> Usage:
        """What the answers have cost. Those on a part are no evaluations."""
        return self._usage

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks whose losses it measures."""
        return self._tasks

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        inputs = self._batches[0].inputs
        return inputs[0].device if inputs else torch.device("cpu")

    @property
    def order(self) -> tuple[bool, bool]:
        """What answers depend on besides their questions: the order of the samples, and that of channels in memory."""
        return self._shuffled, self._channels_last

    def of_metrics(self, make: Callable[[], Oracle]) -> Oracle:
        """The oracle that measures metrics with the help of this one; the one that was made first."""
        if self._metrics is None:
            self._metrics = make()
        return self._metrics

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def losses(
        self, program: Program, channels: ChannelGraph, keep: Keep, finish: Finish | None = None
    ) -> Mapping[str, float]:
        """See Oracle."""
        answer = self._counted(self._asked(program, channels, keep, len(self._batches), finish))
        return {name: answer.mean(name) for name in answer.totals}

    def glimpse(
        self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None = None
    ) -> Mapping[str, float]:
        """See Oracle."""
        return self._asked(program, channels, keep, batches, finish).parts[batches]

    def samples(
        self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None = None
    ) -> Samples:
        """See Oracle. The calibration set is shuffled when this is asked for the first time."""
        if not self._shuffled:
            self._batches, self._shuffled = shuffled(self._batches), True
            self._each = broadcast_object(
                "how samples are told apart", lambda: separable(program, self._tasks, self._batches)
            )
            self._parts = None
            self._forget()
        answer = self._counted(self._asked(program, channels, keep, batches, finish))
        values = {name: np.concatenate(parts[:batches]) for name, parts in answer.values.items()}
        if self._each is None:
            return Samples(values, len(self._batches))
        return Samples(values, self.size, {name: n for name, n in self._labels.items() if n != self.size})

    def unfit(self, keep: Keep, finish: Finish | None = None) -> Mapping[str, int]:
        """See Oracle."""
        answer = self._known.get((keep.tobytes(), finish))
        if answer is None:
            return {}
        return {name: number for name, number in answer.unfit.items() if number < answer.asked}

    def gradients(self, program: Program) -> Mapping[str, Tensor]:
        """See Oracle. The last program's gradients are remembered."""

        def look(tasks: Sequence[Task], batches: Sequence[Batch]) -> Mapping[str, Tensor]:
            return broadcast_object("gradients", lambda: self._differentiate(program))

        return self.once("gradients", program, look)

    def once(self, what: str, program: Program, look: Look[_T]) -> _T:
        """See Oracle."""
        known = self._looks.get(what)
        if known is None or known[0] is not program:
            began = time.perf_counter()
            known = self._looks[what] = program, look(self._tasks, self._batches)
            self.spend(time.perf_counter() - began, self.size, 1)
        found: _T = known[1]
        return found

    @property
    def parts(self) -> tuple[int, ...]:
        """See Oracle: those that hold SCOUTED samples, twice as many, and so on to half of all."""
        if self._parts is None:
            done = list(itertools.accumulate(batch.size for batch in self._batches))
            sizes = (SCOUTED << i for i in range(32) if SCOUTED << i <= done[-1])
            ends = [next(number for number, size in enumerate(done, 1) if size >= least) for least in sizes]
            worth = dict.fromkeys(end for end in ends if 2 * done[end - 1] <= done[-1])
            first = self._batches[: ends[0]] if done[-1] >= SCOUTED * WORTH else ()
            seen = all(any(labelled(task, batch.target, batch.size) for batch in first) for task in self._tasks)
            self._parts = tuple(worth) if first and seen else ()
        return self._parts

    def reuse(self, megabytes: int, channels_last: bool | None = None) -> None:
        """See Oracle."""
        self._megabytes, self._prefixes, self._runs, self._ahead = megabytes, None, {}, None
        if channels_last is not None and channels_last != self._channels_last:
            self._channels_last = channels_last
            self._forget()  # answers differ in their last bits

    def ahead(self, node: str | None) -> None:
        """See Oracle."""
        self._ahead = node

    def _forget(self) -> None:
        """Forget the answers: they are those of another program, or of other batches."""
        self._known, self._runs, self._prefixes = {}, {}, None

    def _asked(self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None) -> Sums:
        """The answer for that keep-set, gone on with until so many batches are done."""
        self._turn_to(program)
        key = (keep.tobytes(), finish)
        if key not in self._known:
            names = [task.name for task in self._tasks]
            sums = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), {name: list[Any]() for name in names}
            self._known[key] = Sums(*sums, marks=self.parts)
        answer = self._known[key]
        answer.asked = max(answer.asked, batches)
        if answer.done >= batches:
            return answer
        first, last = answer.done, self._last(answer.done, batches)
        name = self.answers.name(program, keep, finish, self.order, first, last)
        known = broadcast_object("a remembered answer", lambda: self.answers.recall(name))
        if known is not None:
            answer.take(known)
            self.spend(float(known.fields["seconds"]), int(known.fields["images"]))
            return answer
        before = self._usage

        run = self._running(program, channels, keep, finish)
        self._go_on(answer, run, last, f"batches {first} to {last} of {zlib.crc32(key[0]):08x}")
        fields, rows = answer.since(first)
        spent = {"images": self._usage.images - before.images, "seconds": self._usage.seconds - before.seconds}
        self.answers.remember(name, {**fields, **spent}, rows)
        if answer.done == len(self._batches):
            self._runs.pop(key, None)
        return answer

    def show(
        self,
        program: Program,
        channels: ChannelGraph,
        keep: Keep,
        finish: Finish | None,
        see: Callable[[Any, Batch], None],
    ) -> None:
        """Run all batches in this process, in their order, and show each with the output of the cut program."""
        self._turn_to(program)
        run = self._running(program, channels, keep, finish)
        with borrowed_rng(0), torch.inference_mode():
            for number, batch in enumerate(self._batches):
                reseed(number)
                see(run(number, batch), batch)
        self._runs.pop((keep.tobytes(), finish), None)

    @property
    def _inputs(self) -> tuple[TensorSpec, ...]:
        """What the network was traced on."""
        return () if self._program is None else self._program.inputs

    def _turn_to(self, program: Program) -> None:
        """Forget what is known of another program."""
        if self._program is not program:
            self._program = program
            self._forget()

    def _running(self, program: Program, channels: ChannelGraph, keep: Keep, finish: Finish | None) -> _Run:
        """How to run the program cut to `keep`, which is cut when it is run."""
        key = keep.tobytes(), finish

        def run(number: int, batch: Batch) -> Any:
            if key not in self._runs:
                cut = materialise(program, channels, keep)
                while len(self._runs) >= HELD:
                    del self._runs[next(iter(self._runs))]
                self._runs[key] = self._run(program, channels, cut if finish is None else finish(cut, keep))
            return refusing(self._runs[key], number, batch) if self._channels_last else self._runs[key](number, batch)

        return run

    def _last(self, first: int, asked: int) -> int:
        """Where to go on to from `first`: every process does as many batches as the busiest one, if there are any."""
        size = world().size
        return min(len(self._batches), first + size * math.ceil((asked - first) / size))

    def _run(self, program: Program, channels: ChannelGraph, cut: Program) -> _Run:
        """How to run `cut`, which was made of `program`."""
        if not self._megabytes:
            module = in_channels_last(cut.module) if self._channels_last else cut.module
            return lambda number, batch: module(*batch.inputs)
        if self._prefixes is None:
            rows = zip(channels.layers, layer_costs(channels, channels.all), strict=True)
            work = {layer.node: row.before.macs for layer, row in rows}
            self._prefixes = Prefixes(program, self._megabytes, self.size, work)
        self._prefixes.ahead = self._ahead
        return self._prefixes.run(cut, in_channels_last(cut.module) if self._channels_last else cut.module)

    def _go_on(self, answer: Sums, run: _Run, last: int, what: str) -> None:
        began, first = time.perf_counter(), answer.done

        def work(number: int) -> Found:
            batch = self._batches[number]
            with torch.inference_mode(), feeding(f"calibration batch {number}", batch, self._inputs):
                reseed(number)  # the same draws whether or not the batches before were run just now, or here
                return self._values(run(number, batch), batch)

        with borrowed_rng(0):
            found = gather_in_order(what, range(first, last), work)
        for each in found:
            answer.add(each, keep=self._shuffled)
        images = sum(batch.size for batch in self._batches[first:last])
        self.spend(time.perf_counter() - began, images)

    def _values(self, output: Any, batch: Batch) -> Found:
        """Each task's losses of the batch's samples where they were asked for and can be told apart, or its mean."""
        if self._each is not None:
            return {name: (values, values.size) for name, values in self._each(self._tasks, output, batch).items()}
        losses = batch_losses(self._tasks, output, batch.target)
        return {name: (np.array([float(loss.value)]), loss.of(batch.size)) for name, loss in losses.items()}

    def _differentiate(self, program: Program) -> dict[str, Tensor]:
        module = program.copy()
        parameters = dict(module.named_parameters())
        module.requires_grad_(True)
        module.zero_grad()
        with borrowed_rng(0), torch.enable_grad():
            for batch in self._batches:
                found = batch_losses(self._tasks, module(*batch.inputs), batch.target)
                shares = {name: loss.value * (loss.of(batch.size) / self._labels[name]) for name, loss in found.items()}
                if shares:
                    weighted(self._tasks, shares).backward()
        return {name: torch.zeros_like(p) if p.grad is None else p.grad.detach() for name, p in parameters.items()}

    def _counted(self, answer: Sums) -> Sums:
        """The answer, counted as an evaluation when it is given for the first time."""
        self.spend(0.0, 0, not answer.given)
        answer.given = True
        return answer

    def spend(self, seconds: float, images: int, evaluations: int = 0) -> None:
        """Count what an answer has cost."""
        used = self._usage
        self._usage = Usage(used.evaluations + evaluations, used.images + images, used.seconds + seconds)
