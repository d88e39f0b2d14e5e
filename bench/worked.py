"""What the worked examples share: a dense network trained once for the tasks of a spec, the compile, its figures.

docs/examples.md shows what bench/results holds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from bench.oracle_speed.cases import data_folder
from bench.pages import put
from bench.quick_quality.cached import written
from bench.quick_quality.training import Augment, Part, Recipe, trained
from pagcp_cli import compile_spec, load_spec
from pagcp_cli.numbers import count, percent, value
from pagcp_cli.render import compile_report
from passes.tasks import build_tasks

__all__ = ["PAGE", "RESULTS", "Worked", "table"]

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "examples.md"


@dataclass(frozen=True)
class Worked:
    """An example in a folder: `name`.yaml there, the file of its data, and how its dense network is made.

    `part` gives all that the network is trained on, from the folder of the data.
    """

    name: str
    folder: Path
    data: str
    build: Callable[[], nn.Module]
    part: Callable[[Path], Part]
    augment: Augment
    recipe: Recipe

    @property
    def spec(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    def dense(self) -> Path:
        """The weights that the spec names. Trained where they are not cached, on the spec's tasks by their weights."""
        path = self.folder / "out" / "dense.safetensors"
        tasks = build_tasks(load_spec(self.spec, ["model.weights=null"]))  # which are not there yet
        torch.manual_seed(self.recipe.seed)
        model, _ = trained(self.name, self.build(), tasks, self.part(data_folder()), self.augment, self.recipe)
        written(path, save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
        return path

    def train(self) -> int:
        """`python -m bench.NAME.train`: 0, or 2 without the data."""
        if not self._here():
            return 2
        print(self.dense())
        return 0

    def main(self) -> int:
        """`python -m bench.NAME`: the exit code of the compile, or 2 without the data."""
        parser = argparse.ArgumentParser(prog=f"python -m bench.{self.name}")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for pagcp compile")
        parser.add_argument("-o", "--out", type=Path, default=Path("out") / self.name)
        parser.add_argument("--json", action="store_true", help="print what is stored")
        given = parser.parse_args()
        if not self._here():
            return 2
        threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1
        torch.set_num_threads(threads)
        self.dense()
        began = time.perf_counter()
        result = compile_spec(load_spec(self.spec, given.set), given.out, force=True)
        found = result.evidence()
        kept = {key: found[key] for key in ("costs", "limits", "verdicts", "missed")}
        setting = {"recipe": asdict(self.recipe), "threads": threads, "torch": version("torch")}
        text = json.dumps({**kept, "seconds": round(time.perf_counter() - began), "setting": setting}, indent=1)
        if not given.set:
            (RESULTS / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")
            put(self.name, table(json.loads(text)), PAGE)
        print(text if given.json else compile_report(result))
        return result.exit_code

    def _here(self) -> bool:
        there = (data_folder() / self.data).is_file()
        if not there:
            print(f"no {data_folder() / self.data}: PAGCP_DATA must name the folder of the data", file=sys.stderr)
        return there


def table(found: Mapping[str, Any]) -> str:
    """A row per task, and what is kept."""
    lines = ["task          dense      cut  recovered  allowed"]
    for row in found["verdicts"]:
        dense, pruned, recovered, allowed = (value(row[key]) for key in ("dense", "pruned", "recovered", "allowed"))
        verdict = "met" if row["met"] else "MISSED"
        lines.append(f"{row['task']:10}{dense:>9}{pruned:>9}{recovered:>11}{allowed:>9}  {verdict}")
    before, after = (found["costs"][key] for key in ("before", "after"))
    for key, name in (("macs", "MACs"), ("params", "parameters")):
        share = percent(after[key], before[key])
        lines.append(f"{name:10}{count(before[key]):>9}{count(after[key]):>9}{share:>11}")
    return "\n".join(lines)
