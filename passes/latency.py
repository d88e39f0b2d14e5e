"""budgets.latency: estimated layer by layer while a search looks for cuts, measured end to end before it is believed.

A keep-set is within the budget as long as the sum over its layers (layer_times.py) is within a limit. The limit lies
where the straight line through two networks that were measured end to end comes to the budget: the smallest one that
missed it and the largest one that met it, by their sums; at first the original and the deepest cut. Every network that
the sums say to be within, and that misses it as measured, moves the limit.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.program import Program
from pagcp_ir.rewrite import materialise
from pagcp_ir.timing.race import Backend, Spread
from passes.end_to_end import inputs_at, timed, written
from passes.journal import Journal
from passes.layer_times import MeasuredTimes, TableTimes, Widths, widths
from passes.processes import broadcast_object
from specs.diagnostics import PassError
from specs.latency import LatencyBudget, LatencyFound, TableBackend

__all__ = ["Latency"]

AIM = 0.98
"""Of the budget: what the limit is set for, so that noise does not make it miss; and its smallest step."""
_UNLIMITED = LatencyBudget.model_validate({"at_most": "100%"})


class Latency:
    """What keep-sets over `channels`, the ORIGINAL network's, take. `folder`: the spec's, for a command or a table.

    What is measured is kept in the journal: a run that goes on decides as it did before.
    """

    def __init__(
        self,
        budget: LatencyBudget | None,
        program: Program,
        channels: ChannelGraph,
        journal: Journal | None = None,
        folder: Path | None = None,
    ) -> None:
        self.limited = budget is not None
        self._budget, self._folder = budget or _UNLIMITED, folder
        self._program, self._channels, self._journal = program, channels, journal or Journal()
        self._known: dict[Widths, float] = {}
        self._found: dict[tuple[int, ...], LatencyFound] = {}
        self._points: dict[float, float] = {}

    def estimate(self, keep: Keep) -> float:
        """Milliseconds by layers."""
        asked = widths(self._channels, keep)
        missing = tuple(dict.fromkeys(each for each in asked if each not in self._known))
        if missing:
            found = self._remembered("layers", repr(missing), lambda: self._by_layer(missing))
            self._known.update((each, found[_name(each)]) for each in missing)
        return math.fsum(self._known[each] for each in asked)

    @property
    def limit(self) -> float:
        """What an estimate has to be within; infinite without a budget."""
        if not self.limited:
            return math.inf
        if not self._points:
            self.measured(self._channels.all)
        missed = [each for each, load in self._points.items() if load > 1]
        if not missed:
            return math.inf
        high = min(missed)
        low = max((each for each, load in self._points.items() if load <= 1 and each < high), default=0.0)
        load = self._points.get(low, 0.0)
        share = (AIM - load) / (self._points[high] - load)
        return max(low, min(low + share * (high - low), AIM * high))

    def within(self, keep: Keep) -> bool:
        """Whether the keep-set meets the budget, as measured if it was, or else by its layers; True without one."""
        if not self.limited:
            return True
        known = self._found.get(self._sizes(keep))
        return known.met if known is not None else self.estimate(keep) <= self.limit

    def confirmed(self, keep: Keep) -> bool:
        """Whether it meets the budget as measured; True without a budget. Where it does not, the limit moves."""
        return not self.limited or self.measured(keep).met

    def measured(self, keep: Keep) -> LatencyFound:
        """The keep-set against the original, end to end; once for all that keep as many channels."""
        key = self._sizes(keep)
        if key not in self._found:
            numbers = self._remembered("network", repr(key), lambda: self._end_to_end(keep))
            budget, load = self._budget, self._budget.load(numbers["after"], numbers["ratio"])
            before, after, ratio = numbers["before"], numbers["after"], numbers["ratio"]
            settings = budget.name, budget.batch, budget.threads, str(budget.at_most)
            self._found[key] = LatencyFound(*settings, before, after, ratio, numbers["low"], numbers["high"], load)
            self._points[self.estimate(keep)] = load
            self._points.setdefault(self.estimate(self._channels.all), budget.load(before, 1.0))
        return self._found[key]

    def _sizes(self, keep: Keep) -> tuple[int, ...]:
        """How many channels stay on each axis: all that time depends on."""
        return tuple(int(keep[axis].sum()) for axis in self._channels.distinct_axes)

    def refuse(self) -> None:
        """PassError P413 with the best that was measured, where nothing that was measured meets the budget."""
        best = min(self._found.values(), key=lambda found: found.load, default=None)
        if best is None or best.met:
            return
        hint = "allow more time, or see with `pagcp bench` which layers take the time"
        told = f"the latency budget is out of reach: at most {best.at_most}, best reached {best.after:.4g} ms"
        spread = f"{best.ratio:.1%} ({best.low:.1%} to {best.high:.1%}) of {best.before:.4g} ms"
        raise PassError.one("P413", f"{told}, {spread}, as {best.backend} says", hint=hint)

    @cached_property
    def _times(self) -> MeasuredTimes | TableTimes:
        backend = self._budget.backend
        if isinstance(backend, TableBackend):
            return TableTimes.read((self._folder or Path()) / backend.table, self._channels)
        path, inputs = self._original("onnxruntime"), inputs_at(self._program, self._budget.batch)
        kind: Backend = "torch" if backend == "torch" else "onnxruntime"
        return MeasuredTimes(self._channels, path, inputs, kind, self._budget.batch, self._budget.threads)

    def _by_layer(self, asked: Sequence[Widths]) -> Mapping[str, float]:
        return dict(zip(map(_name, asked), self._times.ms(asked), strict=True))

    def _end_to_end(self, keep: Keep) -> Mapping[str, float]:
        backend = self._budget.backend
        if isinstance(backend, TableBackend):
            before, after = (math.fsum(self._times.ms(widths(self._channels, k))) for k in (self._channels.all, keep))
            return _figures(before, after, Spread(*[after / before] * 3))
        original = self._original(backend)
        cut = materialise(self._program, self._channels, keep)
        inputs = inputs_at(self._program, self._budget.batch)
        with tempfile.TemporaryDirectory() as name:
            raced = timed([original, written(cut, Path(name), backend)], inputs, self._budget, self._folder)
        return _figures(raced.ms[0].median, raced.ms[1].median, raced.ratios[1])

    def _original(self, backend: object) -> Path:
        """The original network as a file that the backend runs."""
        kind = "torch" if backend == "torch" else "onnxruntime"
        if kind not in self._originals:
            self._originals[kind] = written(self._program, Path(self._scratch.name) / kind, kind)
        return self._originals[kind]

    @cached_property
    def _originals(self) -> dict[str, Path]:
        return {}

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="pagcp-")

    def _remembered(self, what: str, asked: str, find: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Numbers that `find` measures in the first process; they are read back after a kill."""
        key = f"latency {what} {hashlib.sha256(asked.encode()).hexdigest()}"

        def look() -> Mapping[str, float]:
            if (known := self._journal.recall(key)) is not None:
                return {name: float(number) for name, number in known.fields["numbers"].items()}
            found = find()
            self._journal.remember(key, {"numbers": dict(found)})
            return found

        return broadcast_object(f"latency: {what}", look)


def _name(asked: Widths) -> str:
    return " ".join(map(str, asked))


def _figures(before: float, after: float, ratio: Spread) -> Mapping[str, float]:
    return {"before": before, "after": after, "ratio": ratio.median, "low": ratio.low, "high": ratio.high}
