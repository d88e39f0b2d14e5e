"""One arm on one case with one seed: cut, measured, fine-tuned, measured. A cell that was computed before is read."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

from bench.quick_quality.arms import Arm, cut, started
from bench.quick_quality.cached import folder, key, written
from bench.quick_quality.cases import Case, split
from bench.quick_quality.peer import macs
from passes.base import Context
from passes.data import Splits
from passes.finetune import Finetune
from passes.measure import measure
from specs.spec import Budgets

__all__ = ["Cell", "cell", "dense"]

Cell = dict[str, Any]


def dense(case: Case) -> Cell:
    """The metrics of the uncut network and its MACs."""
    place = folder() / "cells" / f"{case.name}-dense-{key(case.setting)}.json"
    if not place.is_file():
        metrics = measure(case.program(), case.tasks, split("test", case.test))
        found = {"metrics": metrics, "macs": macs(case.model, case.shape)}
        written(place, json.dumps(found).encode())
    return dict(json.loads(place.read_bytes()))


def cell(case: Case, name: str, arm: Arm, seed: int) -> Cell:
    """What became of the network: metrics before and after fine-tuning, share of MACs kept, seconds of the search."""
    place = folder() / "cells" / f"{case.name}-{name}-{seed}-{key(case.setting, arm.told, seed)}.json"
    if not place.is_file():
        began = time.process_time()
        found = _computed(case, arm, seed)
        found["seconds"] = time.process_time() - began
        print(f"{case.name} {name}, seed {seed}: {found['seconds']:.0f} s", file=sys.stderr)
        written(place, json.dumps(found).encode())
    return dict(json.loads(place.read_bytes()))


def _computed(case: Case, arm: Arm, seed: int) -> Cell:
    found, test = cut(arm, case, seed), split("test", case.test)
    data = Splits({"train": case.training(seed), "validation": split("validation", case.validation)})
    ctx = Context(Budgets(), seed=seed, data=data, tasks=case.tasks)
    tuned = Finetune(case.finetune).run(started(found.program), ctx).program
    widths = {
        name: int(module.out_channels)
        for name, module in found.program.module.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }
    return {
        "before": measure(found.program, case.tasks, test),
        "after": measure(tuned, case.tasks, test),
        "kept": macs(found.program.module, case.shape) / dense(case)["macs"],
        "search_seconds": found.seconds,
        "evaluations": found.evaluations,
        "widths": widths,
    }
