"""docs/detector.md: its figures are those of the stored results, between marks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "figures"]

PAGE = Path(__file__).parents[2] / "docs" / "detector.md"


def figures(found: Mapping[str, Any]) -> str:
    """What stands between its marks."""
    return "\n".join((*_rows(found["arms"]), "", *_sentences(found)))


def _rows(arms: Mapping[str, Any]) -> list[str]:
    """A row a network, before and after fine-tuning."""
    tasks = list(arms["dense"]["tuned"])
    lines = [f"| | MACs | {' | '.join(tasks)} | mAP, training | validation | time |", "|---" * (5 + len(tasks)) + "|"]
    for name, row in arms.items():
        if "map50" not in row:
            continue
        kept = f"{row['kept']['macs']:.1%}" if "kept" in row else "100%"
        if "cut" in row and name != "dense":
            losses = " | ".join(f"{row['cut'][task]:.5f}" for task in tasks)
            lines.append(f"| {name}, cut | {kept} | {losses} | | | |")
        losses = " | ".join(f"{row['tuned'][task]:.5f}" for task in tasks)
        after = "" if name == "dense" else ", fine-tuned"
        precise = " | ".join(f"{row['map50'][part]:.1%}" for part in ("train", "val"))
        lines.append(f"| {name}{after} | {kept} | {losses} | {precise} | {row['of_dense_time']:.2f} |")
    return lines


def _sentences(found: Mapping[str, Any]) -> list[str]:
    """What the table does not say."""
    arms, network = found["arms"], found["network"]
    lines = [f"The dense network has {network['macs'] / 1e6:.1f} M MACs, and {network['groups']} groups."]
    if "total_6" in arms:
        kept = arms["total_6"]["kept"]["macs"]
        total = arms["published"]["total"]
        lines.append(
            f"The published total of 6 keeps {kept:.1%} of the MACs here; for half of them it takes {total:.4g}."
        )
    for name, verdict in found["better"].items():
        worse = [task for task, fine in verdict.items() if not fine]
        told = f"is worse than `published` in {', '.join(worse)}" if worse else "is worse than `published` in no loss"
        lines.append(f"Fine-tuned, `{name}` {told}.")
    return lines
