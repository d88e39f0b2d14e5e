"""What the cells say: by arm the worst task's relative drop, its mean and spread over seeds, and what beats what.

The spread is the sample standard deviation. The default beats an arm where the gap between their means is more than
the larger of their two spreads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from bench.quick_quality.arms import ARMS, PEERS
from bench.quick_quality.cases import Case
from bench.quick_quality.cells import Cell

__all__ = ["STAGES", "beaten", "summed", "table", "tables"]

STAGES = ("before", "after")
"""Of fine-tuning."""
Rows = Mapping[str, Any]
DEFAULT = "marginal"


def summed(case: Case, dense: Cell, cells: Sequence[Cell]) -> dict[str, Any]:
    """One arm's cells, one a seed."""
    found: dict[str, Any] = {
        name: round(mean(cell[name] for cell in cells), digits)
        for name, digits in (("kept", 4), ("search_seconds", 1), ("evaluations", 0))
    }
    for stage in STAGES:
        drops = [case.drops(cell[stage], dense["metrics"]) for cell in cells]
        worst = [max(drop.values()) for drop in drops]
        found[stage] = {
            "worst": [round(drop, 4) for drop in worst],
            "mean": round(mean(worst), 4),
            "spread": round(stdev(worst), 4) if len(worst) > 1 else None,
            "drops": {task: round(mean(drop[task] for drop in drops), 4) for task in dense["metrics"]},
            "metrics": {task: round(mean(cell[stage][task] for cell in cells), 4) for task in dense["metrics"]},
        }
    return found


def beaten(arms: Rows) -> dict[str, dict[str, bool]]:
    """By arm that the default is held against, and stage: whether the default beats it."""
    if DEFAULT not in arms:
        return {}
    ours = arms[DEFAULT]
    return {peer: {stage: _below(ours[stage], arms[peer][stage]) for stage in STAGES} for peer in PEERS if peer in arms}


def _below(ours: Rows, theirs: Rows) -> bool:
    return bool(theirs["mean"] - ours["mean"] > max(ours["spread"] or 0.0, theirs["spread"] or 0.0))


def tables(cases: Rows) -> str:
    """All of it."""
    return "\n\n".join(table(name, found) for name, found in cases.items())


def table(name: str, found: Rows) -> str:
    """A line an arm, as percentages of dense."""
    dense, tasks = found["dense"], list(found["dense"]["metrics"])
    told = ", ".join(f"{task} {value:.4g}" for task, value in dense["metrics"].items())
    head = f"{'':18}{'MACs':>7}{'search':>8}{'worst drop, cut':>18}{'fine-tuned':>18}   by task, fine-tuned"
    lines = [f"{name}: {dense['macs'] / 1e6:.1f} M MACs, {told}", head]
    for arm, row in found["arms"].items():
        numbers = f"{row['kept']:>7.1%}{row['search_seconds']:>6.0f} s"
        stages = "".join(f"{_spread(row[stage]):>18}" for stage in STAGES)
        drops = ", ".join(f"{task} {row['after']['drops'][task]:.1%}" for task in tasks)
        lines.append(f"{arm:18}{numbers}{stages}   {drops if len(tasks) > 1 else ARMS[arm].about}")
    for stage in STAGES:
        lost = [peer for peer, wins in found["beaten"].items() if not wins[stage]]
        if found["beaten"]:
            against = f"does not beat {', '.join(lost)}" if lost else "beats every one"
            lines.append(f"{DEFAULT}, {stage} fine-tuning: {against} of {len(found['beaten'])}")
    return "\n".join(lines)


def _spread(stage: Rows) -> str:
    spread = "" if stage["spread"] is None else f" ± {100 * stage['spread']:.1f}"
    return f"{100 * stage['mean']:.1f}{spread} %"
