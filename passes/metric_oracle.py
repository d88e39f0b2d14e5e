"""measure: metric. The oracle of a search that goes by the tasks' metrics in place of their losses.

What stands for a loss is the metric m itself where lower is better, and -m where higher is. The rise of that over its
base is then |m0| for |m0|: 1 + (m0 - m) / |m0|, so that a tolerance of 1% allows what `max_drop: 1%` allows, whatever
the metric's range. A metric is one number of the whole calibration set, fed batch by batch in order: there are no
differences between samples to race on, and no parts of it to add up, so that one process measures for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.program import Program
from passes.batches import Batch
from passes.measure import feed, meters
from passes.oracle import RealOracle
from passes.processes import broadcast_object
from passes.questions import Finish, Look, Oracle, Samples, Usage
from passes.sums import unlabelled
from specs.diagnostics import PassError

if TYPE_CHECKING:
    from passes.base import Context

__all__ = ["MetricOracle", "measuring", "refuse_useless"]

_T = TypeVar("_T")


class MetricOracle:
    """Metrics measured by `oracle`, which keeps the activations, runs the networks and is told what that costs.

    PassError P409 where a task has no metric.
    """

    parts: Sequence[int] = ()

    def __init__(self, oracle: RealOracle) -> None:
        for task in oracle.tasks:
            if task.metric is None:
                hint = "give the task a metric, or leave out measure"
                raise PassError.one("P409", f"measure: metric needs a metric of task {task.name!r}", hint=hint)
        self._oracle = oracle
        self._program: Program | None = None
        self._order = oracle.order
        self._known: dict[tuple[bytes, Finish | None], Mapping[str, float]] = {}

    @property
    def usage(self) -> Usage:
        """What the answers have cost, with those of the oracle that measures losses."""
        return self._oracle.usage

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return self._oracle.batches

    def losses(
        self, program: Program, channels: ChannelGraph, keep: Keep, finish: Finish | None = None
    ) -> Mapping[str, float]:
        """Each task's metric, turned so that less is better. DataError D722 when a metric fails."""
        if self._program is not program or self._order != self._oracle.order:
            self._program, self._known, self._order = program, {}, self._oracle.order
        key = keep.tobytes(), finish
        if key not in self._known:
            self._known[key] = self._measured(program, channels, keep, finish)
        return self._known[key]

    def _measured(
        self, program: Program, channels: ChannelGraph, keep: Keep, finish: Finish | None
    ) -> Mapping[str, float]:
        answers, began = self._oracle.answers, time.perf_counter()
        name = answers.name(program, keep, finish, ("metrics", self._oracle.order), 0, self.batches)
        known = broadcast_object("remembered metrics", lambda: answers.recall(name))
        if known is not None:
            found: Mapping[str, float] = {task: float(value) for task, value in known.fields["numbers"].items()}
        else:
            found = broadcast_object("metrics", lambda: self._run(program, channels, keep, finish))
            answers.remember(name, {"numbers": found}, {})
        self._oracle.spend(time.perf_counter() - began, self._oracle.size, 1)
        return found

    def _run(self, program: Program, channels: ChannelGraph, keep: Keep, finish: Finish | None) -> Mapping[str, float]:
        metered = meters(self._oracle.tasks, self._oracle.device)

        def see(output: Any, batch: Batch) -> None:
            feed(metered, output, batch.target)

        self._oracle.show(program, channels, keep, finish, see)
        for name in (task.name for task, meter in metered if not meter.fed):
            raise unlabelled(name)
        values = {task.name: (meter.result().value, task.higher_is_better) for task, meter in metered}
        return {name: -value if higher else value for name, (value, higher) in values.items()}

    def samples(
        self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None = None
    ) -> Samples:
        """There are none."""
        raise PassError.one("P409", "measure: metric has no losses of samples, as confidence needs them")

    def glimpse(
        self, program: Program, channels: ChannelGraph, keep: Keep, batches: int, finish: Finish | None = None
    ) -> Mapping[str, float]:
        """There are no parts."""
        raise AssertionError(f"{batches} is not one of no parts")

    def unfit(self, keep: Keep, finish: Finish | None = None) -> Mapping[str, int]:
        """A metric has no batch on which it is not finite."""
        return {}

    def gradients(self, program: Program) -> Mapping[str, Tensor]:
        """Those of the losses."""
        return self._oracle.gradients(program)

    def once(self, what: str, program: Program, look: Look[_T]) -> _T:
        """What the other oracle remembers."""
        return self._oracle.once(what, program, look)

    def reuse(self, megabytes: int, channels_last: bool | None = None) -> None:
        """See Oracle."""
        self._oracle.reuse(megabytes, channels_last)

    def ahead(self, node: str | None) -> None:
        """See Oracle."""
        self._oracle.ahead(node)


def refuse_useless(base: Mapping[str, float]) -> None:
    """PassError P404 for metrics of which nothing can be a share: not finite, or 0."""
    for task, value in base.items():
        if not math.isfinite(value) or value == 0:
            message = f"the metric of task {task!r} is {abs(value):g} before anything is cut"
            hint = "what is lost is measured as a share of it: take another metric, other data, or measure: loss"
            raise PassError.one("P404", message, hint=hint)


def measuring(options: Any, ctx: Context) -> Context:
    """The context of a pass with these options: its oracle measures what they ask for."""
    oracle: Oracle | None = ctx.oracle
    if getattr(options, "measure", "loss") == "loss" or not isinstance(oracle, RealOracle):
        return ctx
    return replace(ctx, oracle=oracle.of_metrics(lambda: MetricOracle(oracle)))
