"""`python -m bench.processes`: the seconds that a search takes in two processes, against one, with one thread each.

The digits network on many noisy copies of its calibration images, so that one process takes a minute or more. Start-up
does not count: the clock runs from the start of the pass to its end. Processor seconds are those of the first process,
in which waiting does not count: on a machine that does other work too they say what the seconds would be without it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
LIMIT = 0.65
"""What two processes may take of the seconds of one,"""
LONG = 60
"""if one takes so many."""
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "published": {"search": "published", "criterion": "l1", "tolerance": 0.2, "total": 20},
    "marginal": {"search": "marginal", "moves": 40},
    "races": {"search": "marginal", "moves": 40, "confidence": 0.95},
}
SPEC = """
version: 1
model: {{factory: digits:build, args: {{width: 48}}, weights: digits.safetensors, inputs: [[1, 1, 8, 8]]}}
data: {{factory: many:datasets, args: {{copies: {copies}}}, batch_size: 128}}
tasks:
  - {{name: digit, output: digit, target: digit, loss: {{name: cross_entropy, label_smoothing: 0.1}}}}
  - {{name: denoise, output: denoise, target: denoise, loss: mse_loss}}
budgets: {{macs: 40%}}
passes: [pagcp: {options}]
export: []
"""
DATA = """
import digits


def datasets(copies):
    made = digits.datasets(copies=1)
    few = made["calibration"]
    return {"calibration": digits.NoisyDigits(few.clean, few.labels, digits.NOISE, 1, copies)}
"""


def main() -> int:
    """0 when two processes are fast enough and write the plan of one, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m bench.processes")
    parser.add_argument("--copies", type=int, default=64, help="of the 300 calibration images, with other noise each")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the fastest counts")
    parser.add_argument("--json", action="store_true", help="print what is stored")
    parser.add_argument("--inside", nargs=2, type=Path, metavar=("SPEC", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        return _inside(*given.inside)
    found = {name: _compared(SEARCHES[name], given.copies, given.repeat) for name in given.searches}
    machine = {"torch": version("torch"), "cores": os.cpu_count(), "threads": 1, "images": 300 * given.copies}
    text = json.dumps({"limit": LIMIT, "searches": found, **machine}, indent=1)
    (RESULTS / "processes.json").write_text(text + "\n", encoding="utf-8")
    print(text if given.json else _table(found))
    slow = [row for row in found.values() if row["one"]["seconds"] >= LONG and row["cpu share"] > LIMIT]
    return 1 if slow or not all(row["same plan"] for row in found.values()) else 0


def _compared(options: Mapping[str, Any], copies: int, repeat: int) -> dict[str, Any]:
    rows: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(repeat):
        for size, found in rows.items():
            found.append(_run(options, copies, size))
    one, two = (min(found, key=lambda row: row["seconds"]) for found in rows.values())
    return {
        "one": one,
        "two": two,
        "share": round(two["seconds"] / one["seconds"], 3),
        "cpu share": round(two["cpu_seconds"] / one["cpu_seconds"], 3),
        "same plan": len({row.pop("plan") for found in rows.values() for row in found}) == 1,
    }


def _run(options: Mapping[str, Any], copies: int, size: int) -> dict[str, Any]:
    """Compile in so many processes, each with one thread."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("digits.py", "digits.safetensors"):
            (folder / file).write_bytes((ROOT / "specs" / "examples" / file).read_bytes())
        (folder / "many.py").write_text(DATA)
        (folder / "s.yaml").write_text(SPEC.format(copies=copies, options=json.dumps(dict(options))))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(size)]
        command = [*torchrun, "-m", "bench.processes", "--inside", str(folder / "s.yaml"), str(folder / "out")]
        before = os.getloadavg()[0]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        found = json.loads((folder / "out.json").read_text())
        return {**found, "load": round(before, 1), "plan": (folder / "out" / "plan.json").read_text()}


def _inside(spec: Path, out: Path) -> int:
    """One of the processes."""
    from pagcp_cli import compile_spec
    from passes.processes import is_main, joined
    from specs.spec import load_spec

    clock: dict[str, tuple[float, float]] = {}

    def progress(kind: str, fields: Mapping[str, Any]) -> None:
        if kind in ("pass_start", "pass_end"):
            clock[kind] = time.perf_counter(), time.process_time()

    with joined():
        result = compile_spec(load_spec(spec), out, progress=progress)
        if is_main():
            wall, cpu = (end - start for start, end in zip(clock["pass_start"], clock["pass_end"], strict=True))
            (search,) = result.searches
            row = {
                "seconds": round(wall, 2),
                "cpu_seconds": round(cpu, 2),
                "evaluations": search.evaluations,
                "images": search.samples,
                "closest": search.closest,
            }
            out.with_suffix(".json").write_text(json.dumps(row))
    return 0


def _table(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["search     1 process  2 processes  share  cpu share  plan   closest decision"]
    for name, row in found.items():
        one, two = row["one"], row["two"]
        same = "same " if row["same plan"] else "OTHER"
        times = f"{one['seconds']:7.1f} s  {two['seconds']:9.1f} s"
        lines.append(f"{name:10} {times}  {row['share']:5.2f}  {row['cpu share']:9.2f}  {same}  {one['closest']:.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
