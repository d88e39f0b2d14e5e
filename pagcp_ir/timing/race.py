"""How long networks take, measured in turns (A, B, A, B, ...), so that what drifts on the machine hits all of them.

Each lies in a process of its own (child.py). A turn is a block of runs; the ratio of two networks is that of the
medians of two blocks in succession. Told are the medians of runs and of ratios, and the quartiles as their spread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from specs.diagnostics import EmitError

__all__ = ["Backend", "Given", "Job", "Raced", "Spread", "race"]

Backend = Literal["onnxruntime", "torch"]
BLOCK_MS = 20.0
"""What a block of runs takes at least."""
ROUNDS, LEAST_ROUNDS, SECONDS = 25, 5, 30.0
"""Blocks of each network; fewer, but no fewer than LEAST_ROUNDS, where they would take longer than SECONDS."""


@dataclass(frozen=True)
class Given:
    """One input: its name, shape with the batch first, and numpy's name of its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Job:
    """A file to run: .onnx for onnxruntime, .pt2 or a model.py of ours for torch."""

    backend: Backend
    path: Path
    inputs: tuple[Given, ...]
    threads: int = 1

    def to_json(self) -> str:
        """One line for the process that runs it."""
        path = str(self.path.resolve())
        return json.dumps({**asdict(self), "path": path}) + "\n"


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(numbers: Sequence[float]) -> Spread:
        """That of at least one number."""
        low, median, high = (float(q) for q in np.quantile(np.asarray(numbers, dtype=np.float64), (0.25, 0.5, 0.75)))
        return Spread(median, low, high)


@dataclass(frozen=True)
class Raced:
    """What came of a race: milliseconds of a run, bytes of memory at most, and ratios to the first of the networks."""

    ms: tuple[Spread, ...]
    peaks: tuple[int, ...]
    ratios: tuple[Spread, ...]
    runs: tuple[int, ...]


def race(jobs: Sequence[Job], rounds: int = ROUNDS, seconds: float = SECONDS) -> Raced:
    """Time the networks in turns. EmitError E613 when one of them does not run."""
    with ExitStack() as stack:
        runners = [stack.enter_context(_running(job)) for job in jobs]
        counts = [max(1, round(BLOCK_MS / max(runner.ready, 1e-3))) for runner in runners]
        began, blocks = time.monotonic(), list[list[list[float]]]()
        for number in range(rounds):
            if number >= LEAST_ROUNDS and time.monotonic() - began > seconds:
                break
            blocks.append([runner.run(count) for runner, count in zip(runners, counts, strict=True)])
        peaks = tuple(runner.peak() for runner in runners)
    medians = np.array([[np.median(block) for block in turn] for turn in blocks])
    ratios = tuple(Spread.of(list(medians[:, n] / medians[:, 0])) for n in range(len(jobs)))
    own = [[ms for turn in blocks for ms in turn[n]] for n in range(len(jobs))]
    return Raced(tuple(map(Spread.of, own)), peaks, ratios, tuple(map(len, own)))


class _Runner:
    """The other end of child.py."""

    def __init__(self, job: Job, process: subprocess.Popen[str]) -> None:
        self._job, self._process = job, process
        self.ready = float(self._asked(job.to_json())["ready"])

    def run(self, count: int) -> list[float]:
        return [float(ms) for ms in self._asked(f"{count}\n")]

    def peak(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.close()
        return int(self._answer()["peak"])

    def _asked(self, line: str) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("the process ended") from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed("the process ended")
        found = json.loads(line)
        if isinstance(found, dict) and "error" in found:
            raise self._failed(found["error"])
        return found

    def _failed(self, why: str) -> EmitError:
        return EmitError.one("E613", f"{self._job.backend} cannot run it: {why}", str(self._job.path))


@contextmanager
def _running(job: Job) -> Iterator[_Runner]:
    threads: Mapping[str, str] = {"OMP_NUM_THREADS": str(job.threads)}
    command = [sys.executable, str(Path(__file__).with_name("child.py"))]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **threads},
    ) as process:
        try:
            yield _Runner(job, process)
        finally:
            process.kill()
