"""`python -m bench.quick_quality`: our searches against uniform L1, the published procedure and torch-pruning.

Two trained networks, half of their MACs, the worst task's relative drop before and after a short, equal fine-tuning.
Cells are kept outside the repository: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.oracle_speed.cases import data_folder
from bench.pages import put
from bench.quick_quality.arms import ARMS, Arm
from bench.quick_quality.cases import Case
from bench.quick_quality.cells import cell, dense
from bench.quick_quality.cifar import resnet20
from bench.quick_quality.mtfl import mtfl
from bench.quick_quality.summary import beaten, summed, tables

RESULT = Path(__file__).parents[1] / "results" / "quick_quality.json"
CASES: Mapping[str, tuple[str, Callable[[Path], Case]]] = {
    "mtfl": ("mtfl48_gray.npz", mtfl),
    "resnet20": ("cifar10_jpeg.npz", resnet20),
}


def main() -> int:
    """0 when all cells are there; 2 without the data."""
    given = _arguments()
    data = data_folder()
    missing = [name for case in given.case for name in (CASES[case][0],) if not (data / name).is_file()]
    if missing:
        print(f"no {data / missing[0]}: PAGCP_DATA must name the folder of the data", file=sys.stderr)
        return 2
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1)
    found = {name: _compared(CASES[name][1](data), given.only, given.seeds) for name in given.case}
    setting = {"seeds": given.seeds, "threads": torch.get_num_threads(), "torch": version("torch")}
    text = json.dumps({"cases": found, "setting": {**setting, "torch-pruning": version("torch-pruning")}}, indent=2)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n", encoding="utf-8")
    if given.out == RESULT:
        put("quick_quality", tables(found))
    print(text if given.json else tables(found))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.quick_quality")
    parser.add_argument("--case", type=_names(CASES), default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--only", type=_names(ARMS), default=list(ARMS), help=f"arms, of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="file for the results; bench/results/quick_quality.json for all of it")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    if given.out is None and (given.case, given.only, given.seeds) == (list(CASES), list(ARMS), [0, 1, 2]):
        given.out = RESULT
    return given


def _names(known: Mapping[str, Any]) -> Callable[[str], list[str]]:
    def parsed(text: str) -> list[str]:
        wrong = [name for name in text.split(",") if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
        return text.split(",")

    return parsed


def _compared(case: Case, names: list[str], seeds: list[int]) -> dict[str, Any]:
    chosen: dict[str, Arm] = {name: ARMS[name] for name in names}
    whole = dense(case)
    # seed by seed, so that a run that is stopped has whole seeds
    cells = [{name: cell(case, name, arm, seed) for name, arm in chosen.items()} for seed in seeds]
    arms = {
        name: {"about": arm.about, **summed(case, whole, [row[name] for row in cells])} for name, arm in chosen.items()
    }
    return {"dense": whole, "setting": case.setting, "arms": arms, "beaten": beaten(arms)}


if __name__ == "__main__":
    sys.exit(main())
