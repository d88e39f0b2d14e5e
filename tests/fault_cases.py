"""Named faults, each in a real process: what it must say, how it must end, and that going on gives the same bytes.

Each case returns what was wrong; an empty list is what everybody wants. `make faults` runs them before its kills.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli.projects import project
from tests.small_disk import on_small_disk, resized

__all__ = ["CASES", "reference"]

SOON = 2.0
"""Seconds within which Ctrl-C ends a run: of the clock, or of its own work where others share the cores."""
NET = """
import os
import signal

import torch
from torch import nn
from torch.nn import functional

FAULT = os.environ.get("PAGCP_FAULT", "")
calls = 0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.block(x)).mean((2, 3)))


build = Net


class Data:
    def __init__(self, seed, name):
        draw = torch.Generator().manual_seed(seed)
        self.x, self.y = torch.randn(96, 1, 24, 24, generator=draw), torch.randn(96, 3, generator=draw)
        self.name = name

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if FAULT == f"raise {self.name}" and index == 40:
            raise OSError("the share went away")
        bad = FAULT == f"nan {self.name}" and index == 40
        return self.x[index], self.y[index] * (float("nan") if bad else 1.0)


def data():
    return {name: Data(n, name) for n, name in enumerate(("train", "calibration", "validation", "test"))}


def loss(output, target):
    global calls
    calls += 1
    if FAULT == "lost" and os.environ.get("RANK") == "1" and calls == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    if FAULT == "memory" and calls == 40:
        torch.empty(2**50)
    return functional.mse_loss(output, target)
"""
SPEC = """version: 1
model: {factory: net:build, weights: net.safetensors, inputs: [[1, 1, 24, 24]]}
data: {factory: net:data, batch_size: 16}
tasks: [{name: t, loss: "net:loss", metric: MeanSquaredError}]
budgets: {macs: 60%}
passes: [{pagcp: {swaps: 1}}, refit, {finetune: {epochs: 3}}]
export: [python, pt2]
"""
Case = Callable[[Path, Path], list[str]]


def reference(folder: Path) -> Path:
    """The result of a run that nothing happens to; the project lies beside it."""
    spec = project(folder, SPEC, NET)
    done = _run(spec, folder / "whole")
    if done.returncode:
        raise AssertionError(done.stderr)
    return folder / "whole"


def _command(spec: Path, out: Path, *more: str) -> list[str]:
    return [str(Path(sys.executable).with_name("pagcp")), "compile", str(spec), "-o", str(out), *more]


def _run(spec: Path, out: Path, *more: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PAGCP_FAULT": fault}
    command = _command(spec, out, *more)
    return subprocess.run(command, env=env, cwd=spec.parent, capture_output=True, text=True, check=False, timeout=600)


def _same(whole: Path, out: Path, *names: str) -> list[str]:
    """In what the result differs."""
    if not out.is_dir():
        return [f"{out.name} is not there"]
    found = names or ("plan.json", "model.py", "model.safetensors")
    return [f"another {name}" for name in found if (whole / name).read_bytes() != (out / name).read_bytes()]


def _ended(done: subprocess.CompletedProcess[str], code: int, *says: str) -> list[str]:
    """How the exit code and the messages differ from what they must be."""
    told = [] if done.returncode == code else [f"exit {done.returncode}, not {code}: {done.stderr[-400:]}"]
    return [*told, *(f"does not say {text!r}: {done.stderr[-400:]}" for text in says if text not in done.stderr)]


def _gone_on(spec: Path, whole: Path, out: Path, *before: str) -> list[str]:
    done = _run(spec, out, "--resume")
    return [*before, *_ended(done, 0), *_same(whole, out)]


def _interrupted(at: str) -> Case:
    """Ctrl-C once the journal has a record of that kind, or the result a file of that name."""

    def case(folder: Path, whole: Path) -> list[str]:
        spec, out = folder / "net.yaml", folder / f"interrupted-{at}"
        result, before = folder / f".{out.name}.partial" / "result", _cpu(None)
        with subprocess.Popen(
            _command(spec, out),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            while process.poll() is None and not _reached(result, at):
                time.sleep(0.002)
            process.send_signal(signal.SIGINT)
            began, spent = time.monotonic(), _cpu(process.pid)
            told = (process.communicate()[1] or b"").decode()
            took = min(time.monotonic() - began, _cpu(None) - before - spent)
        wrong = [] if process.returncode == 130 else [f"exit {process.returncode}: {told[-400:]}"]
        wrong += [] if took <= SOON else [f"took {took:.1f} s"]
        wrong += [] if "interrupted; nothing was written\n  what was found" in told else [f"says {told[-400:]}"]
        wrong += [] if "--resume" in told and "Traceback" not in told else [f"says {told[-400:]}"]
        return _gone_on(spec, whole, out, *wrong)

    return case


def _cpu(process: int | None) -> float:
    """Seconds that the process has worked; None: all that have ended."""
    if process is None:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it is over, or this is no Linux
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _reached(result: Path, at: str) -> bool:
    if (result / at).is_file():
        return True
    journal = result / "journal.jsonl"
    return journal.is_file() and f'{{"kind": "{at}"'.encode() in journal.read_bytes()


def _fault(fault: str, code: int, *says: str) -> Case:
    """The user's code or data fails in that way; later it does not."""

    def case(folder: Path, whole: Path) -> list[str]:
        spec, out = folder / "net.yaml", folder / fault.replace(" ", "-")
        wrong = _ended(_run(spec, out, fault=fault), code, *says)
        wrong += ["wrote a result"] if out.exists() else []
        return _gone_on(spec, whole, out, *wrong)

    return case


def _lost_process(folder: Path, whole: Path) -> list[str]:
    """Under torchrun, the second of two processes is killed in the search."""
    spec, out = folder / "net.yaml", folder / "lost"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    env = {**os.environ, "PAGCP_FAULT": "lost"}
    command = [*launcher, *_command(spec, out)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    wrong = [] if done.returncode else ["exit 0"]
    wrong += [] if "R901" in done.stderr or "interrupted; nothing" in done.stderr else [f"says {done.stderr[-600:]}"]
    wrong += [] if "pagcp has a bug" not in done.stderr else ["says that it is a bug"]
    return _gone_on(spec, whole, out, *wrong)


def _full_disk(kib: int) -> Case:
    """A disk of that size, which gets room later."""

    def case(folder: Path, whole: Path) -> list[str]:
        disk, spec = folder / f"disk-{kib}", folder / "net.yaml"
        disk.mkdir()

        def body() -> list[str]:
            out = disk / "out"
            done = _run(spec, out)
            if done.returncode == 0:
                return _same(whole, out)  # large enough
            wrong = _ended(done, 1, f"error[E614]: cannot write {out}: No space left on device", "  hint: make room")
            resized(disk, 8192)
            return _gone_on(spec, whole, out, *wrong)

        try:
            found: list[str] = on_small_disk(disk, kib, body)
        except OSError as error:
            print(f"  skipped: {error}", flush=True)
            return []
        return found

    return case


CASES: dict[str, Case] = {
    "interrupt in the search": _interrupted("evaluation"),
    "interrupt in the recovery": _interrupted("refit"),
    "interrupt in the fine-tuning": _interrupted("epoch"),
    "interrupt in the export": _interrupted("model.py"),
    "a process is lost": _lost_process,
    "calibration raises": _fault("raise calibration", 1, "error[D704]", "net.py:", "batch 2: the share went away"),
    "train raises": _fault("raise train", 1, "error[D704]: the train split raised OSError at batch"),
    "test raises": _fault("raise test", 1, "error[D704]: the test split raised OSError at batch 2"),
    "NaN in calibration": _fault("nan calibration", 1, "missing: nan"),
    "NaN in train": _fault("nan train", 1, "error[P407]", "missing: nan"),
    "no memory": _fault("memory", 1, "error[D717]: memory ran out", "data.batch_size"),
    **{f"a disk of {kib} KiB": _full_disk(kib) for kib in (4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128)},
}
