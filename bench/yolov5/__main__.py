"""`python -m bench.yolov5`: a YOLOv5n cut by the published procedure and by our default, at equal MACs.

Writes bench/results/yolov5.json, and its figures into docs/detector.md.
Needs the environment of `make yolov5`. What was computed is kept outside the repository: a run that was stopped goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.pages import put
from bench.yolov5.environment import missing
from bench.yolov5.page import PAGE, figures

RESULT = Path(__file__).parents[1] / "results" / "yolov5.json"


def main() -> int:
    """0; 2 without the data or the libraries."""
    parser = argparse.ArgumentParser(prog="python -m bench.yolov5")
    parser.add_argument("--out", type=Path, default=RESULT, help="file for the results")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    if (lack := missing()) is not None:
        print(lack, file=sys.stderr)
        return 2
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1)
    found = measured()
    text = json.dumps(found, indent=2)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text + "\n", encoding="utf-8")
    if given.out == RESULT:
        put("figures", figures(found), PAGE, fenced=False)
    print(text if given.json else table(found))
    return 0


def measured() -> dict[str, Any]:
    """All figures."""
    from bench.yolov5.arms import ARMS, FINETUNE, KEPT, compiled, mean_precisions, summed
    from bench.yolov5.dense import Recipe, dense, exported, opened
    from bench.yolov5.emitted import milliseconds
    from bench.yolov5.groups import check_groups
    from pagcp_ir.cost import costs

    recipe = Recipe()
    weights, key = dense(recipe)
    _, channels = opened(weights)
    network = {"groups": check_groups(channels), "macs": costs(channels).macs}
    published = compiled("published", ARMS["published"], weights, key, None)
    results = {
        name: published if name == "published" else compiled(name, arm, weights, key, published.macs)
        for name, arm in ARMS.items()
    }
    whole, losses = exported(weights, key)
    tuned = {name: results[name].file for name, arm in ARMS.items() if arm.tuned}
    times = milliseconds({"dense": whole, **tuned})
    rows = {"dense": {"tuned": losses}, **{name: summed(result) for name, result in results.items()}}
    for name, file in {"dense": whole, **tuned}.items():
        rows[name] |= {"map50": mean_precisions(file), "ms": round(times[name], 2)}
        rows[name]["of_dense_time"] = round(times[name] / times["dense"], 3)
    setting = {"recipe": asdict(recipe), "finetune": FINETUNE, "macs": KEPT, "threads": torch.get_num_threads()}
    versions = {name: version(name) for name in ("torch", "onnxruntime", "yolov5")}
    return {"network": network, "arms": rows, "better": better(rows), "setting": {**setting, **versions}}


def better(rows: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """By our arm and task: whether the loss on validation, fine-tuned, is no worse than the published procedure's."""
    theirs = rows["published"]["tuned"]
    return {
        name: {task: loss <= theirs[task] for task, loss in row["tuned"].items()}
        for name, row in rows.items()
        if name not in ("dense", "published") and "map50" in row
    }


def table(found: Mapping[str, Any]) -> str:
    """A line an arm."""
    rows = found["arms"]
    tasks = list(rows["dense"]["tuned"])
    head = "".join(f"{task:>12}" for task in tasks)
    lines = [f"{'validation losses':18}{'MACs':>7}{head}{'mAP train':>11}{'val':>7}{'time':>7}"]
    for name, row in rows.items():
        if "map50" not in row:
            lines.append(f"{name}: {row['kept']['macs']:.1%} of MACs, {row['kept']['params']:.1%} of parameters")
            continue
        kept = row.get("kept", {"macs": 1.0})["macs"]
        for stage in ("cut", "tuned"):
            if stage not in row:
                continue
            losses = "".join(f"{row[stage][task]:>12.5f}" for task in tasks)
            last = f"{row['map50']['train']:>11.1%}{row['map50']['val']:>7.1%}{row['of_dense_time']:>7.2f}"
            title = name if stage == "tuned" else f"{name}, cut"
            lines.append(f"{title:18}{kept:>7.1%}{losses}{last if stage == 'tuned' else ''}")
    for name, verdict in found["better"].items():
        worse = [task for task, fine in verdict.items() if not fine]
        lines.append(f"{name}: {'worse than published in ' + ', '.join(worse) if worse else 'no loss worse'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
