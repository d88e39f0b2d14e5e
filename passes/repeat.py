"""repeat: rounds of the same passes, such as a small cut and some training, until the budgets are met.

Plans are over the original network and ratios over its widths, so that rounds never compound: in every round the grid
starts above what is cut already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pagcp_ir.cost import costs
from passes.base import Context, Pass, PassKind, State, meets, run_passes
from specs.options import RepeatOptions

__all__ = ["Repeat"]

MOST = 1000
"""Rounds where the spec sets no number."""


@dataclass(frozen=True)
class Repeat:
    """The pass. With `until`, a round that cuts nothing is the last one."""

    options: RepeatOptions
    name: ClassVar[str] = "repeat"
    kind: ClassVar[PassKind] = "rounds"

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes of a round."""
        from passes import make_pass

        return tuple(make_pass(step.name, step.options) for step in self.options.passes)

    def run(self, state: State, ctx: Context) -> State:
        """All rounds."""
        limits, latency = ctx.budgets.limits(costs(state.channels)), ctx.timing(state)
        for _ in range(self.options.times or MOST):
            before, state = state.plan, run_passes(self.passes, state, ctx)
            met = bool(limits or latency.limited) and meets(state.plan.after, limits)
            if self.options.until == "budgets" and ((met and latency.confirmed(state.keep)) or state.plan == before):
                break
        return state
