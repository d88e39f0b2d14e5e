"""How each arm cuts the detector, and what became of it: losses on validation, mAP and the time of its ONNX file.

What an arm writes stays in a folder outside the repository, named by what determines it; a run that was stopped goes
on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.quick_quality.cached import folder, key
from bench.yolov5.coco import images
from bench.yolov5.dense import SPEC
from bench.yolov5.emitted import precision
from pagcp_cli import compile_spec, load_spec

__all__ = ["ARMS", "FINETUNE", "KEPT", "Arm", "Result", "compiled", "mean_precisions", "summed"]

KEPT = 0.5
"""The share of MACs that the published procedure may keep at most; the other arms keep at most what it kept."""
COMMON = {"grid": {"start": 0.1, "stop": 0.9, "steps": 9}, "cache_mb": 1024}
"""Every second ratio of the published grid: half of the time."""
PUBLISHED = {"search": "published", "tolerance": 0.06, "top": 0.8, "criterion": "l1", "compensate": "none", **COMMON}
OURS = COMMON
FINETUNE = {"epochs": 8, "lr": 0.0005}
"""Of every arm alike."""


@dataclass(frozen=True)
class Arm:
    """`before`: passes before fine-tuning. Without `budget` the search goes as far as its total allows."""

    about: str
    before: tuple[Any, ...]
    budget: bool = True
    tuned: bool = True
    version: int = 1


ARMS: Mapping[str, Arm] = {
    "published": Arm("the published procedure, its total found for the budget", ({"pagcp": PUBLISHED},)),
    "ours": Arm("our default, and its repair in closed form", ({"pagcp": OURS}, "refit")),
    "total_6": Arm(
        "the published total", ({"pagcp": {**PUBLISHED, "total": 6, "stop": "tolerance"}},), budget=False, tuned=False
    ),
}


@dataclass(frozen=True)
class Result:
    """`evidence`: of the compile. `file`: model.onnx."""

    evidence: Mapping[str, Any]
    file: Path

    @property
    def macs(self) -> int:
        """That are kept."""
        return int(self.evidence["costs"]["after"]["macs"])


def compiled(name: str, arm: Arm, weights: Path, made: str, macs: int | None) -> Result:
    """The arm with so many MACs at most, or half of them; `made`: the key of the weights."""
    budget: str | int = "100%" if not arm.budget else f"{KEPT:.0%}" if macs is None else macs
    steps = [*arm.before, *([{"finetune": FINETUNE}] if arm.tuned else [])]
    changes = {"passes": steps, "budgets": {"macs": budget}}
    out = folder() / "yolov5" / f"{name}-{key(SPEC.read_text(encoding='utf-8'), made, changes, arm.version)}"
    if not (out / "evidence.json").is_file():
        told = [f"{what}={_flow(value)}" for what, value in changes.items()]
        out.parent.mkdir(parents=True, exist_ok=True)
        compile_spec(load_spec(SPEC, [f"model.weights={weights}", *told]), out, resume=True)
    evidence = json.loads((out / "evidence.json").read_text(encoding="utf-8"))
    found = Result(evidence, out / "model.onnx")
    print(f"{name}: {found.macs / evidence['costs']['before']['macs']:.1%} of MACs", file=sys.stderr)
    return found


def _flow(value: Any) -> str:
    """As YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def summed(result: Result) -> dict[str, Any]:
    """What the search and the verdicts say, losses on validation, cut and fine-tuned."""
    before, after = (result.evidence["costs"][stage] for stage in ("before", "after"))
    search = result.evidence["searches"][0]
    return {
        "kept": {name: round(after[name] / before[name], 4) for name in ("macs", "params")},
        "total": search["total"],
        "evaluations": search["evaluations"],
        "seconds": round(search["seconds"]),
        "calibration": {task: round(factor, 4) for task, factor in search["factors"].items()},
        "cut": {row["task"]: round(row["pruned"], 5) for row in result.evidence["verdicts"]},
        "tuned": {row["task"]: round(row["recovered"], 5) for row in result.evidence["verdicts"]},
    }


def mean_precisions(file: Path) -> dict[str, float]:
    """mAP on training and validation images."""
    return {part: round(precision(file, images(part)), 4) for part in ("train", "val")}
