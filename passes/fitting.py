"""Fits a reader to what it gave in the original network, on sampled positions of the calibration images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from zlib import crc32

import torch
from torch import Tensor

from pagcp_ir.program import Program
from pagcp_ir.watching import Watch
from passes.data import Batch
from passes.gate import Changes
from passes.least_squares import Equations, Fit
from passes.readers import Reader
from passes.seeding import borrowed_rng
from specs.options import RefitOptions

__all__ = ["Fitter", "Sample"]

ENOUGH = 5
"""Samples per input of a layer, at least. What fewer tell may predict well, but training from there ends worse."""


@dataclass(frozen=True)
class Sample:
    """Of one call on one batch: rows of the output by number, what the original gives there, and their images' half."""

    rows: Tensor
    wanted: Tensor
    half: Tensor


Targets = dict[tuple[str, int], Sample]
"""By call and number of the batch."""


class Fitter:
    """`dense`: the original network."""

    def __init__(self, options: RefitOptions, dense: Program, batches: Sequence[Batch], seed: int) -> None:
        self._options, self._dense, self._batches, self._seed = options, dense, batches, seed
        self._samples = sum(batch.size for batch in batches)
        self._expected: list[Reader] = []
        self._seen: Targets = {}

    def expect(self, found: Sequence[Reader]) -> None:
        """These will be fitted next, in that order."""
        self._expected, self._seen = list(found), {}

    def fit(self, program: Program, reader: Reader, weights: bool) -> Changes | str:
        """What the reader's tensors become, in `program` as it is now; or why nothing."""
        how, tensor = reader.how[0], program.tensors()[reader.weight]
        groups, width, outputs = how.matrix(tensor).shape
        if not weights and reader.offset is None:
            return "it has no bias, and no BatchNorm of its own behind it"
        if weights and Equations.bytes(groups, width, outputs) > self._options.memory_mb * 2**20:
            need = math.ceil(Equations.bytes(groups, width, outputs) / 2**20)
            return f"its equations need {need} MiB, memory_mb allows {self._options.memory_mb}"
        targets = self._targets(reader)
        rows = sum(len(targets[call, number].rows) for call in reader.calls for number in range(len(self._batches)))
        if weights and rows < ENOUGH * width:
            return f"{rows} samples do not tell the weights of {width} inputs, {ENOUGH * width} do"
        equations = Equations(groups, width if weights else 0, outputs, reader.offset is not None)
        self._fill(equations, program, reader, targets, weights)
        fit = equations.fit()
        if fit is None:
            return "what fits one half of the images does not fit the other better than what is there"
        return _changes(program, reader, fit, weights)

    def _targets(self, reader: Reader) -> Targets:
        """What it is fitted to; looked at for as many of those expected at a time as the memory holds."""
        if (reader.calls[0], 0) not in self._seen:
            at, used = self._expected.index(reader), 0
            part = [reader]
            for other in self._expected[at + 1 :]:
                used += self._bytes(part[-1])
                if used + self._bytes(other) > self._options.memory_mb * 2**20:
                    break
                part.append(other)
            self._seen = self._watched(part)
        return self._seen

    def _fill(self, equations: Equations, program: Program, reader: Reader, targets: Targets, weights: bool) -> None:
        """Add the rows of all calls and batches."""
        how = dict(zip(reader.calls, reader.how, strict=True))
        shift = dict(zip(reader.calls, reader.shift(self._dense, program), strict=True))

        def see(number: int, name: str, taken: Tensor, given: Tensor) -> None:
            sample, patches = targets[name, number], how[name]
            wanted = sample.wanted - shift[name]
            left = wanted - patches.outputs(given, sample.rows)
            x = patches.inputs(taken, sample.rows) if weights else left.new_zeros(len(left), patches.groups, 0)
            left, wanted = (value.view(len(value), patches.groups, -1) for value in (left, wanted))
            equations.add(x, left, wanted, sample.half)

        watch = Watch(program, reader.calls, see)
        with borrowed_rng(0), torch.inference_mode():
            for number, batch in enumerate(self._batches):
                watch(number, *batch.inputs)

    def _watched(self, found: Sequence[Reader]) -> Targets:
        """What the original gives at sampled positions, in one run of it."""
        readers = {name: (reader, how) for reader in found for name, how in zip(reader.calls, reader.how, strict=True)}
        seen, sizes = Targets(), [batch.size for batch in self._batches]
        firsts = list(accumulate(sizes, initial=0))

        def see(number: int, name: str, taken: Tensor, given: Tensor) -> None:
            reader, how = readers[name]
            count, size = how.count(given), sizes[number]
            rows = self._rows(count, size, f"{name} {number}")
            image = firsts[number] + rows * size // count
            kept = torch.from_numpy(reader.outputs).to(given.device)
            seen[name, number] = Sample(rows, how.outputs(given, rows)[:, kept], image % 2)

        watch = Watch(self._dense, list(readers), see)
        with borrowed_rng(0), torch.inference_mode():
            for number, batch in enumerate(self._batches):
                watch(number, *batch.inputs)
        return seen

    def _rows(self, count: int, size: int, place: str) -> Tensor:
        """Numbers of the rows that are looked at, of `count`, in ascending order: the share of a batch of that size."""
        share = math.ceil(self._options.positions * size / self._samples)
        if count <= share:
            return torch.arange(count)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + crc32(place.encode()))
        return torch.randperm(count, generator=generator)[:share].sort()[0]

    def _bytes(self, reader: Reader) -> int:
        return len(reader.calls) * self._options.positions * (len(reader.outputs) * 4 + 24)


def _changes(program: Program, reader: Reader, fit: Fit, weights: bool) -> Changes:
    tensors, made = program.tensors(), dict[str, Tensor]()
    if weights:
        made[reader.weight] = tensors[reader.weight].detach().double() + reader.how[0].weight(fit.weight)
    if reader.offset is not None:
        name, place = reader.offset
        offset = fit.offset.flatten()
        made[name] = tensors[name].detach().double() + (-offset if place == "running_mean" else offset)
    return made
