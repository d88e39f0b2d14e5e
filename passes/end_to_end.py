"""A cut network against the original, whole: written as they are shipped, and timed in turns."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pagcp_ir.emit import EXPORTERS, About
from pagcp_ir.program import Program
from pagcp_ir.timing.race import Backend, Given, Job, Raced, Spread, race
from specs.diagnostics import PassError
from specs.latency import CommandBackend, LatencyBudget

__all__ = ["inputs_at", "timed", "written"]

_ABOUT = About("measured by pagcp")
_FILES = {"onnxruntime": ("onnx", "model.onnx"), "torch": ("python", "model.py")}
TURNS = 3
"""How often a command measures each network."""
_ENDS = re.compile(r"(?:^|[\s:=])([-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*(?:ms)?$")


def inputs_at(program: Program, batch: int) -> tuple[Given, ...]:
    """What the network takes at that batch size, under the names that its exports have."""
    names = [str(n.target) for n in program.module.graph.nodes if n.op == "placeholder"]
    told = zip(names, program.inputs, strict=True)
    return tuple(Given(n, (batch, *x.shape[1:]), str(x.dtype).removeprefix("torch.")) for n, x in told)


def written(program: Program, folder: Path, backend: Any) -> Path:
    """The file of `program` in `folder` that the backend runs. EmitError E6xx where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    exporter, name = _FILES[backend if backend == "torch" else "onnxruntime"]
    EXPORTERS[exporter](program, folder, _ABOUT)
    return folder / name


def timed(files: Sequence[Path], inputs: Sequence[Given], budget: LatencyBudget, base: Path | None) -> Raced:
    """The networks in these files, in turns. PassError P414 for a command without an answer, EmitError E613.

    `base`: the folder that a command is run from.
    """
    if isinstance(budget.backend, CommandBackend):
        turns = [[_told(budget.backend.command, file, base) for file in files] for _ in range(TURNS)]
        own = tuple(Spread.of(column) for column in zip(*turns, strict=True))
        ratios = tuple(Spread.of([turn[n] / turn[0] for turn in turns]) for n in range(len(files)))
        return Raced(own, (0,) * len(files), ratios, (TURNS,) * len(files))
    backend: Backend = "torch" if budget.backend == "torch" else "onnxruntime"
    return race([Job(backend, file, tuple(inputs), budget.threads) for file in files])


def _told(command: str, file: Path, base: Path | None) -> float:
    """The number that the last line ends with, with ms behind it or not."""
    parts = [part.replace("{onnx}", str(file.resolve())) for part in shlex.split(command)]
    try:
        ran = subprocess.run(parts, cwd=base, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        told = (error.strerror or str(error)).lower()
        raise PassError.one("P414", f"the command cannot be run: {told}", command) from error
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or [""])[-1]
        raise PassError.one("P414", f"the command failed with exit code {ran.returncode}: {why}", command)
    found = _ENDS.search((ran.stdout.strip().splitlines() or [""])[-1])
    ms = float(found[1]) if found else math.nan
    if not (math.isfinite(ms) and ms > 0):
        raise PassError.one("P414", "the last line that the command prints ends with no milliseconds", command)
    return ms
