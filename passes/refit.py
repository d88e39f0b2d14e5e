"""refit: what is left is repaired in closed form, layer by layer, and only as long as it harms no task.

In the order of the graph, so that later layers see repaired inputs: the readers of removed channels are fitted to what
they gave in the original network (least squares, or their offsets alone), then BatchNorm statistics are those of the
calibration images, then the layers at the outputs are fitted to the original's. Each change passes the gate (gate.py).
Of several processes the first one fits for all; what the gate measures is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from passes.base import Context, PassKind, State
from passes.fitting import Fitter
from passes.gate import Gate
from passes.processes import broadcast_object
from passes.readers import Reader, heads, readers
from passes.recalibrate import normalisations, recalibrated
from specs.options import RefitOptions

__all__ = ["Refit"]


@dataclass(frozen=True)
class Refit:
    """The pass. DataError D709 without tasks and data."""

    options: RefitOptions
    name: ClassVar[str] = "refit"
    kind: ClassVar[PassKind] = "transformer"

    def run(self, state: State, ctx: Context) -> State:
        """Repair a copy of the state's program."""
        oracle = ctx.need_oracle(self.name)
        batches = oracle.once("batches", state.program, lambda tasks, batches: tuple(batches))
        oracle.reuse(self.options.cache_mb)
        gate, found = Gate(state, ctx), readers(state)
        fitter = Fitter(self.options, ctx.original or state.program, batches, ctx.seed)
        self._fit(gate, fitter, [r for r in found if r.loses], self.options.mode == "lstsq")
        if self.options.batchnorm:
            for name, calls in normalisations(state.program).items():
                made = partial(recalibrated, gate.program, name, calls, batches)
                gate.offer(name, "batchnorm", broadcast_object(f"the statistics of {name}", made))
        if self.options.heads:
            self._fit(gate, fitter, heads(state.program, found), True)
        oracle.reuse(0)
        return replace(state, program=gate.program)

    def _fit(self, gate: Gate, fitter: Fitter, found: Sequence[Reader], whole: bool) -> None:
        """Offer what fits each reader best: all of it where `whole`, else, or where that is dropped, its offset."""
        fitter.expect(found)
        for reader in found:
            for what in ("lstsq", "bias") if whole else ("bias",):
                made = partial(fitter.fit, gate.program, reader, weights=what == "lstsq")
                fit = broadcast_object(f"{what} of {reader.name}", made)
                if isinstance(fit, str):
                    gate.decline(reader.name, what, fit)
                elif gate.offer(reader.name, what, fit):
                    break
