"""What a search leaves behind: what it asked, what tolerance was needed, and the path that it took. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from specs.plan import Range

__all__ = ["PathStep", "SearchRecord"]


@dataclass(frozen=True)
class PathStep:
    """One cut on the way: `removed`, index ranges into the group, and what the network costs and loses after it.

    `price`: what the step cost `task`, which it cost most, in units of that task's tolerance, per unit of cost saved.
    """

    group: str
    ratio: float
    removed: tuple[Range, ...]
    cost: float
    task: str
    price: float
    losses: Mapping[str, float] = field(hash=False)


@dataclass(frozen=True)
class SearchRecord:
    """One search. `start`: each task's loss before it cut anything; `factors`: its loss at the end over that.

    `total`: the total tolerance that it used or found; None for a search that has none. `unknown`: groups of whose
    ratios below the accepted one some were not looked at. `undone`: groups given back when they were measured again.
    `measure`: loss, or metric: what stands for a task's loss then is its metric, negative where higher is better.
    `closest`: by what share one loss would have to be another for the closest of all decisions to turn out otherwise.
    """

    search: str
    factors: Mapping[str, float] = field(hash=False)
    total: float | None = None
    growth: float | None = None
    evaluations: int = 0
    samples: int = 0
    seconds: float = 0.0
    unknown: int = 0
    undone: tuple[str, ...] = ()
    swaps: int = 0
    closest: float | None = None
    path: tuple[PathStep, ...] = ()
    measure: str = "loss"
    start: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def worst(self) -> str:
        """The task whose loss rose by the largest factor."""
        return max(self.factors, key=lambda task: self.factors[task])

    def to_dict(self) -> dict[str, Any]:
        """The data of evidence.json."""
        return {**asdict(self), "factors": dict(self.factors), "start": dict(self.start)}
