"""What keep-sets cost, what a step saves of what the budgets still ask for, and whether they are met.

Budgets are on MACs, parameters and bytes, which are counted, and on the latency, which is estimated while a search
looks for cuts and measured before it ends (latency.py). A step that serves several is worth the sum of what it saves of
each unmet one, in MACs: all that one of them asks for is worth as much as all that another one does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.cost import costs
from passes.latency import Latency
from specs.spec import Budgets

__all__ = ["Saving"]


class Saving:
    """Savings from `start` on. `by_time`: milliseconds are what counts, whatever the budgets ask for."""

    def __init__(
        self, channels: ChannelGraph, start: Keep, budgets: Budgets, latency: Latency, by_time: bool = False
    ) -> None:
        self._channels, self._start, self._latency, self._by_time = channels, start, latency, by_time
        self._counted = budgets.limits(costs(channels))

    def cost(self, keep: Keep) -> float:
        """Milliseconds, where they are what counts, or else MACs of one sample."""
        return self._latency.estimate(keep) if self._by_time else costs(self._channels, keep).macs

    def saved(self, before: Keep, after: Keep) -> float:
        """Of every budget that is not met at `before`; of all where none is, or of MACs where there is none."""
        old, new, limits = self._figures(before), self._figures(after), self._limits
        unmet = [name for name in self._worth if old[name] > limits.get(name, math.inf)]
        return math.fsum(self._worth[name] * (old[name] - new[name]) for name in unmet or self._worth)

    @cached_property
    def _worth(self) -> Mapping[str, float]:
        """By what is to be saved: MACs that one of it counts as, so that all that one budget asks for is `to_save`."""
        before = self._figures(self._start)
        asked = {name: share for name, share in self._shares.items() if share > 0} or {"macs": 1.0}
        asked = {"latency": 1.0} if self._by_time else asked
        most = max(asked.values())
        return {name: most / share * (before["macs"] / before[name]) for name, share in asked.items()}

    @cached_property
    def to_save(self) -> float:
        """The share of the start's MACs that the tightest budget asks to save of what it limits."""
        return max(self._shares.values(), default=0.5) * costs(self._channels, self._start).macs

    @cached_property
    def _shares(self) -> Mapping[str, float]:
        """By budget: the share of what it limits that it asks to save."""
        before = self._figures(self._start)
        return {name: 1 - limit / before[name] for name, limit in self._limits.items() if math.isfinite(limit)}

    def met(self, keep: Keep) -> bool:
        """Whether there are budgets and they are met, the latency's by its estimate."""
        found, limits = costs(self._channels, keep), self._counted
        counted = all(getattr(found, name) <= limit for name, limit in limits.items())
        return (bool(limits) or self._latency.limited) and counted and self._latency.within(keep)

    def confirmed(self, keep: Keep) -> bool:
        """Whether the latency's budget, if there is one, is met as measured."""
        return self._latency.confirmed(keep)

    @property
    def _limits(self) -> Mapping[str, float]:
        return {**self._counted, **({"latency": self._latency.limit} if self._latency.limited else {})}

    def _figures(self, keep: Keep) -> Mapping[str, float]:
        found = costs(self._channels, keep)
        figures: dict[str, float] = {"macs": found.macs, "params": found.params, "bytes": found.bytes}
        if self._latency.limited or self._by_time:
            figures["latency"] = self._latency.estimate(keep)
        return figures
