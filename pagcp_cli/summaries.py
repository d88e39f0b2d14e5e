"""What `diff` compares: a plan, an artifact folder (its plan) or a .pt2 program, each reduced to a GraphSummary.

Torch is imported for .pt2 files only.
"""

from __future__ import annotations

from pathlib import Path

import specs.diff
from specs.diagnostics import PlanError
from specs.diff import Diff, GraphSummary, summary_of_plan
from specs.plan import Plan, read_plan

__all__ = ["diff", "summary_of"]

Source = str | Path | Plan


def diff(before: Source, after: Source | None = None) -> Diff:
    """The layers of two networks side by side, matched by name.

    A source is a Plan, the path of a plan.json, of an artifact folder, or of a .pt2 program. Of a plan the
    network after its cuts is meant. Without `after`, what the plan `before` itself changes.
    Raises PlanError or EmitError when a file cannot be read.
    """
    if after is not None:
        return specs.diff.diff(summary_of(before), summary_of(after))
    plan = _plan(before)
    return specs.diff.diff(summary_of_plan(plan, "before"), summary_of_plan(plan, "after"))


def summary_of(source: Source) -> GraphSummary:
    """The summary of one side: the network after the plan's cuts, or the program in the .pt2."""
    if isinstance(source, (str, Path)) and Path(source).suffix == ".pt2":
        from pagcp_ir.summary import summary_of_pt2

        return summary_of_pt2(source)
    return summary_of_plan(_plan(source), "after")


def _plan(source: Source) -> Plan:
    if isinstance(source, Plan):
        return source
    path = Path(source)
    if path.is_dir():
        if not (path / "plan.json").is_file():
            raise PlanError.one("L801", "the folder holds no plan.json", str(path), "name an artifact folder")
        path = path / "plan.json"
    if path.suffix == ".pt2":
        raise PlanError.one("L801", "a program alone says nothing of a change", str(path), "name two networks")
    return read_plan(path)
