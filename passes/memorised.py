"""Before a search: a calibration set that the network has learned by heart says little of what cuts will cost.

Its losses there are near zero, so that the least rise exceeds every tolerance, for samples that nobody will ask about.
"""

from __future__ import annotations

from collections.abc import Mapping

from pagcp_ir.program import Program
from passes.base import Context
from passes.measure import mean_losses

__all__ = ["warn_memorised"]

SHARE = 0.5
"""A calibration loss below that share of the validation loss is told."""


def warn_memorised(losses: Mapping[str, float], program: Program, ctx: Context) -> None:
    """Warn of the tasks whose calibration loss is below SHARE of the program's loss on validation, if there is one."""
    if ctx.data is None or "validation" not in ctx.data:
        return
    split = ctx.data["validation"]
    there = ctx.once("losses on validation", program, lambda: mean_losses(program, ctx.tasks, split))
    for task, loss in there.items():
        if losses[task] < SHARE * loss:
            message = (
                f"the loss of {task!r} is {losses[task]:.4g} on the calibration set and {loss:.4g} on validation: "
                "it seems to have been trained on; calibrate on other images, or give the task a floor"
            )
            ctx.note("warning", message=message)
