"""One arm, measured: what it decided and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.oracle_speed.cases import load
from bench.oracle_speed.reference import reference
from bench.zoo.process import Stopwatch, peak_bytes, reset_peak
from pagcp_ir.analyse import analyse
from pagcp_ir.planning import make_plan
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.base import Context, State
from passes.oracle import RealOracle
from passes.pagcp import Pagcp
from specs.options import PagcpOptions
from specs.spec import Budgets

__all__ = ["ARMS", "Row", "Setting", "measure", "warm_up"]

Row = dict[str, Any]
ARMS: Mapping[str, Mapping[str, Any]] = {
    "published": {"search": "published"},
    "certified": {"search": "certified"},
    "racing": {"search": "certified", "confidence": 0.999},
    "marginal": {"search": "marginal", "swaps": 10},
    "marginal_racing": {"search": "marginal", "swaps": 10, "confidence": 0.999},
}
"""Those of ours, by what they differ in. The marginal ones go on to the published one's MACs, and then try swaps."""


@dataclass(frozen=True)
class Setting:
    """What all arms have in common."""

    case: str
    images: int
    batch_size: int
    tolerance: float
    total: float
    steps: int
    cache_mb: int
    threads: int
    channels_last: bool = False

    def options(self, **more: Any) -> PagcpOptions:
        """The pass's options."""
        grid = [round(0.95 * step / self.steps, 4) for step in range(1, self.steps + 1)]
        given = {"tolerance": self.tolerance, "total": self.total, "grid": grid, "cache_mb": self.cache_mb}
        given["channels_last"] = self.channels_last
        published = {"criterion": "l1", "compensate": "none"}
        return PagcpOptions.model_validate({**given, **published, "stop": "tolerance", **more})


def warm_up() -> None:
    """What is done once a process, such as imports, is done before anything is timed; on one thread, before forks."""
    import torch_pruning  # noqa: F401

    torch.set_num_threads(1)
    program = trace(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 1)).eval(), [TensorSpec((1, 1, 4, 4))])
    analyse(program)


def measure(arm: str, setting: Setting, macs: int | None) -> Callable[[Row], None]:
    """A task for a process of its own that writes the arm's row. `macs`: where the marginal searches stop."""

    def task(row: Row) -> None:
        case = load(setting.case, setting.images, setting.batch_size)
        torch.set_num_threads(setting.threads)
        reset_peak()
        watch = Stopwatch()
        if arm == "reference":
            found = reference(case, setting.options())
            row["removed"] = {group: list(cut) for group, cut in found.removed.items()}
            row["factors"] = {task: found.last[task] / loss for task, loss in found.first.items()}
            row |= {"evaluations": found.evaluations, "images": found.images, "macs": found.macs}
        else:
            more = dict(ARMS[arm])
            if more["search"] == "marginal":
                more |= {"stop": "budget", "total": "auto"}
            budgets = Budgets.model_validate({"macs": macs} if more["search"] == "marginal" else {})
            program = trace(case.model, [TensorSpec(case.shape)])
            channels = analyse(program)
            state = State(program, channels, make_plan(program, channels, channels.all))
            ctx = Context(budgets, oracle=RealOracle(case.tasks, case.batches), tasks=case.tasks)
            options, looked = setting.options(**more), list[int]()
            ctx = replace(
                ctx, progress=lambda kind, told: looked.extend([told["samples"]] if "samples" in told else [])
            )
            end = Pagcp(options).run(state, ctx)
            row |= _found(end)
            row["images_each"] = round(sum(looked) / len(looked)) if looked else setting.images
        spent = watch.read()
        row |= {"seconds": spent["wall"], "cpu_seconds": spent["cpu"], "peak_mb": round(peak_bytes() / 2**20)}
        if arm in ("certified", "racing"):
            row |= _held(end, options, RealOracle(case.tasks, case.batches))

    return task


def _held(state: State, options: PagcpOptions, oracle: RealOracle) -> Row:
    """How many groups were cut, and after how many of these cuts every loss was within its tolerance on all images."""
    (record,), keep, held, cut = state.searches, state.channels.all, 0, 0
    base = dict(oracle.losses(state.program, state.channels, keep))
    for decision in state.decisions:
        units = state.channels.group(decision.group).units
        if state.keep[units].all():
            continue
        keep[units] = state.keep[units]
        losses = oracle.losses(state.program, state.channels, keep)
        tolerance = options.tolerance * (record.growth or 1.0) ** cut
        held += all(losses[task] <= (1 + tolerance) * loss * (1 + 1e-6) for task, loss in base.items())
        base = {task: max(loss, losses[task]) for task, loss in base.items()}
        cut += 1
    return {"cut": cut, "held": held}


def _found(state: State) -> Row:
    (record,) = state.searches
    gone = {
        group.name: np.flatnonzero(~state.keep[group.units]).tolist()
        for group in state.channels.groups
        if not state.keep[group.units].all()
    }
    return {
        "removed": gone,
        "widths": {decision.group: decision.width for decision in state.decisions},
        "factors": dict(record.factors),
        "evaluations": record.evaluations,
        "images": record.samples,
        "macs": state.plan.after.macs,
        "dense_macs": state.plan.before.macs,
        "undone": len(record.undone),
        "unknown": record.unknown,
    }
