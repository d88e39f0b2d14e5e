"""Kills: `pagcp compile` is killed at random moments and gone on with, until it ends as if it had never been killed.

    python -m tests.faults --kills 20 --seed 0 --only disk

Before them the named faults of fault_cases.py; `--only` runs those whose name holds that text, and no kills.

Moments are drawn over the lines of the journal, so that they lie in the search and in the training rather than in the
start of the process; the rest of each moment is random milliseconds. No handler runs, no buffer is flushed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.running import EXAMPLES

COMMON = ("data.args={copies: 1}", "data.calibration.samples=128", "export=[python]")
RUNS = {
    "back-off": (
        "budgets={macs: 20%}",
        "on_miss=back_off",
        "passes=[{pagcp: {swaps: 2}}, {finetune: {epochs: 2, lr: 0.002}}]",
    ),
    "races": (
        "budgets={macs: 60%}",
        "passes=[{pagcp: {search: certified, confidence: 0.9, tolerance: 0.3}}, {finetune: {epochs: 2, lr: 0.002}}]",
    ),
    "rounds": (
        "budgets={}",
        "passes=[{repeat: {times: 2, passes: [{pagcp: {total: 1.3, stop: tolerance, compensate: mean}}, "
        "{refit: {}}, {finetune: {epochs: 2, lr: 0.001}}]}}]",
    ),
}
"""Overrides of the digits example: what a run may come to on the way."""


def command(run: str, out: Path, *more: str, spec: Path = EXAMPLES / "digits.yaml") -> list[str]:
    """The command line of that run."""
    script = Path(sys.executable).with_name("pagcp")
    sets = [word for override in (*COMMON, *RUNS[run]) for word in ("--set", override)]
    return [str(script), "compile", str(spec), "-o", str(out), *sets, *more]


def journal_of(out: Path) -> Path:
    """The journal while the run lasts."""
    return out.parent / f".{out.name}.partial" / "result" / "journal.jsonl"


def lines_of(out: Path) -> int:
    """How many lines the journal has so far."""
    path = journal_of(out)
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def until(process: subprocess.Popen[bytes], out: Path, lines: int, sent: signal.Signals, delay: float = 0.0) -> bool:
    """Send the signal once the journal has so many lines, after a delay; False when the process ended before."""
    while lines_of(out) < lines:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    process.send_signal(sent)
    process.wait()
    return True


def killed(run: str, out: Path, places: Sequence[int], delays: Sequence[float]) -> int:
    """Kill the run at those lines of its journal, each time gone on with; how many kills came in time."""
    kills = 0
    for lines, delay in zip(places, delays, strict=True):
        with subprocess.Popen(
            command(run, out, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            kills += until(process, out, lines, signal.SIGKILL, delay)
        if out.exists():
            break
    return kills


def ended(run: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Let the run come to its end."""
    return subprocess.run(command(run, out, *more), capture_output=True, text=True, check=False, timeout=600)


def records(folder: Path) -> list[dict[str, Any]]:
    """What the journal says, whatever time it took, and however often it was gone on with."""
    found = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{**record, "seconds": 0} for record in found if record["kind"] not in ("start", "resumed")]


def differences(reference: Path, found: Path) -> list[str]:
    """In what a result differs from that of a run that was not killed."""
    told = [
        name
        for name in ("plan.json", "model.py", "model.safetensors", "spec.lock.yaml")
        if (reference / name).read_bytes() != (found / name).read_bytes()
    ]
    for number, (old, new) in enumerate(zip_longest(records(reference), records(found))):
        if old != new:
            return [*told, f"journal.jsonl at record {number}: {new} in place of {old}"]
    return told


def main() -> int:
    """1 when a fault did not end as it must, or a run that was killed not as its reference."""
    parser = argparse.ArgumentParser(description="kill pagcp compile at random moments and go on with it")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="TEXT", help="of the named faults those that hold it, and no kills")
    asked = parser.parse_args()
    failed = named(asked.only or "")
    if asked.only is not None:
        return 1 if failed else 0
    return 1 if kills(asked.kills, asked.seed) + failed else 0


def named(text: str) -> int:
    """Run the named faults whose name holds the text; how many did not end as they must."""
    from tests.fault_cases import CASES, reference

    failed = 0
    with tempfile.TemporaryDirectory(prefix="pagcp-faults-") as scratch:
        folder = Path(scratch) / "project"
        whole = reference(folder)
        for name, case in CASES.items():
            if text in name:
                began = time.monotonic()
                wrong = case(folder, whole)
                failed += bool(wrong)
                print(f"{name}: {'; '.join(wrong) or 'as it must'} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{failed} named faults that ended otherwise", flush=True)
    return failed


def kills(wanted: int, seed: int) -> int:
    """Spread the kills over the runs; how many of these did not end as their reference."""
    draw, failed, came_to = random.Random(seed), 0, 0
    folder = Path(tempfile.mkdtemp(prefix="pagcp-faults-"))
    try:
        references = {run: folder / run for run in RUNS}
        for run, reference in references.items():
            done = ended(run, reference)
            print(f"{run}: exit {done.returncode}, {len(records(reference))} records", flush=True)
        number = 0
        while came_to < wanted:
            run = list(RUNS)[number % len(RUNS)]
            number += 1
            total, count = len(records(references[run])), min(4, wanted - came_to)
            places = sorted(draw.randrange(1, total) for _ in range(count))
            delays = [draw.uniform(0, 0.3) for _ in range(count)]
            out = folder / f"{run}-{number}"
            came = killed(run, out, places, delays)
            done = ended(run, out, "--resume") if not out.exists() else None
            told = differences(references[run], out) if out.exists() else [done.stderr if done else "nothing"]
            came_to, failed = came_to + came, failed + bool(told)
            print(f"{run}: killed {came} times at lines {places}: {', '.join(told) or 'the same'}", flush=True)
            shutil.rmtree(out, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{came_to} kills, {failed} runs that ended otherwise", flush=True)
    return failed


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
