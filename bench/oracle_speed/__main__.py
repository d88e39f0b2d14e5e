"""`python -m bench.oracle_speed`: the published procedure, as its description has it, against each of our searches.

Same network, images, threads and grid, each arm in a process of its own. Speedups are of processor seconds, so that
other load on the machine counts little. `--json` prints what is stored under bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.oracle_speed.arms import ARMS, Row, Setting, measure, warm_up
from bench.oracle_speed.cases import data_folder
from bench.pages import put
from bench.zoo.process import forked

RESULTS = Path(__file__).parents[1] / "results"
COSTS = ("seconds", "cpu_seconds", "evaluations", "images", "peak_mb")
DEFAULTS = {"digits": (200, 64, 5, 1.5), "resnet20": (5000, 250, 19, 15.0), "resnet56": (1000, 250, 19, 15.0)}
"""By case: images, batch size, steps of the grid, total."""
_BOTH, _SOME = ("certified", "racing"), {"images": 500}
GROWTH: Mapping[str, Sequence[tuple[Mapping[str, Any], Sequence[str]]]] = {
    "digits": [({"images": images}, _BOTH) for images in (100, 200)],
    "resnet20": [
        ({"images": 2000}, _BOTH),
        ({"images": 5000}, ("racing",)),
        ({"images": 20000}, ("racing",)),
        *(({**_SOME, "case": case}, _BOTH) for case in ("resnet20", "resnet20x2", "resnet56")),
    ],
}
"""By case: what is changed of the setting, and the arms to run then."""

SHOWN = {"oracle_speed_resnet20_5000": "oracle_speed", "oracle_growth_resnet20": "oracle_growth"}
"""Where results stand in docs/benchmarks.md."""


def main() -> int:
    """0 when all arms ran; 2 without the data of the case."""
    given = _arguments()
    there = (data_folder() / "cifar10_jpeg.npz").is_file()
    given.case = given.case or ("resnet20" if there else "digits")
    if given.case != "digits" and not there:
        print(f"no {data_folder() / 'cifar10_jpeg.npz'}: set PAGCP_DATA, or take --case digits", file=sys.stderr)
        return 2
    images, batch_size, steps, total = DEFAULTS[given.case]
    setting = Setting(
        case=given.case,
        images=given.images or images,
        batch_size=batch_size,
        tolerance=0.06,
        total=given.total or total,
        steps=given.steps or steps,
        cache_mb=given.cache_mb,
        channels_last=given.channels_last,
        threads=int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1,
    )
    warm_up()
    machine = {"setting": {**vars(setting), "torch": version("torch"), "cores": os.cpu_count()}}
    if given.growth:
        found: dict[str, Any] = {"growth": _growth(setting), **machine}
        name, table = f"oracle_growth_{setting.case}", _growth_table
    else:
        found = {**_compared(_rows(setting), 0.95 / setting.steps), **machine}
        name, table = f"oracle_speed_{setting.case}_{setting.images}", _table
    text = json.dumps(found, indent=2)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if name in SHOWN and given.out == RESULTS:
        put(SHOWN[name], table(found))
    print(text if given.json else table(found))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.oracle_speed")
    parser.add_argument("--case", choices=tuple(DEFAULTS), help="default: resnet20 where PAGCP_DATA is")
    parser.add_argument("--images", type=int, help="calibration images")
    parser.add_argument("--steps", type=int, help="ratios of the grid")
    parser.add_argument("--total", type=float, help="the factor on a loss that all cuts together may reach")
    parser.add_argument("--cache-mb", type=int, default=512, help="memory for activations that are used again")
    parser.add_argument("--channels-last", action="store_true", help="measure with channels innermost in memory")
    parser.add_argument("--growth", action="store_true", help="how costs grow with images, groups and width")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


def _rows(setting: Setting) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for arm in ("reference", *ARMS):
        rows[arm] = _row(arm, setting, rows["published"]["macs"] if "published" in rows else None)
    return rows


def _row(arm: str, setting: Setting, macs: int | None = None) -> Row:
    row = forked(measure(arm, setting, macs), seconds=3600, gigabytes=64)
    if "error" in row:
        raise SystemExit(f"{arm}: {row['error']}")
    print(f"{arm}, {setting.images} images: {row['seconds']:.1f} s", file=sys.stderr)
    return row


def _growth(setting: Setting) -> list[dict[str, Any]]:
    """What a decision costs with more images, with more groups, and with wider ones.

    images_each: those that a decision looked at; what racing accepts in the end is measured on all images beside that.
    """
    found = []
    for change, arms in GROWTH[setting.case]:
        grown = replace(setting, **change)
        for arm in arms:
            row = _row(arm, grown)
            found.append(
                {
                    "case": grown.case,
                    "calibration": grown.images,
                    "arm": arm,
                    "groups": len(row["widths"]),
                    "images_each": row["images_each"],
                    **{key: row[key] for key in COSTS},
                }
            )
    return found


def _compared(rows: Mapping[str, Row], step: float) -> dict[str, Any]:
    reference, published, certified = rows["reference"], rows["published"], rows["certified"]
    widths, dense = published["widths"], published["dense_macs"]
    found: dict[str, Any] = {"reference": _costs(reference, dense)}
    for arm in ARMS:
        found[arm] = {"speedup": round(reference["cpu_seconds"] / rows[arm]["cpu_seconds"], 2)}
        found[arm] |= _costs(rows[arm], dense)
    found["published"]["identical_plan"] = published["removed"] == reference["removed"]
    found["certified"] |= {"same_ratio": _alike(certified, published, widths, 0.0), "groups": len(widths)}
    found["racing"] |= {"same_ratio": _alike(rows["racing"], certified, widths, 0.0), "groups": len(widths)}
    found["racing"]["within_a_step"] = _alike(rows["racing"], certified, widths, step)
    for arm in ("certified", "racing"):
        found[arm] |= {"cut": rows[arm]["cut"], "held": rows[arm]["held"]}
    for arm in ("marginal", "marginal_racing"):
        found[arm]["seconds_over_published"] = round(rows[arm]["cpu_seconds"] / published["cpu_seconds"], 3)
    return found


def _costs(row: Row, dense: int) -> dict[str, Any]:
    costs = {key: row[key] for key in COSTS}
    worst = max(row["factors"].values())
    return {**costs, "macs_kept": round(row["macs"] / dense, 4), "worst_factor": round(worst, 4)}


def _alike(one: Row, other: Row, widths: Mapping[str, int], slack: float) -> int:
    """In how many groups the two cut the same share, up to `slack` and one channel."""

    def share(row: Row, group: str) -> float:
        return len(row["removed"].get(group, ())) / widths[group]

    return sum(abs(share(one, g) - share(other, g)) <= (slack + 1 / w if slack else 0.0) for g, w in widths.items())


def _table(found: Mapping[str, Any]) -> str:
    keys = ("speedup", *COSTS, "macs_kept", "worst_factor")
    lines = [f"{'':16}" + "".join(f"{key:>13}" for key in keys)]
    lines += [f"{arm:16}" + "".join(f"{found[arm].get(key, ''):>13}" for key in keys) for arm in ("reference", *ARMS)]
    told = [f"published: identical plan {found['published']['identical_plan']}"]
    for arm in ("certified", "racing"):
        told.append(f"{arm}: same ratio in {found[arm]['same_ratio']} of {found[arm]['groups']} groups")
    return "\n".join([*lines, *told])


def _growth_table(found: Mapping[str, Any]) -> str:
    keys = ("case", "calibration", "arm", "groups", "images_each", *COSTS)
    rows = [{key: key for key in keys}, *found["growth"]]
    return "\n".join("".join(f"{row[key]:>13}" for key in keys) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
