"""What the searches share: the Space that they ask, the Evaluations that they make, the Outcome that they give.

A task's rise is L / B, its loss over its base. A search weighs rises by `scale`: a task that tolerates twice as much as
the others has scale 2, and its rise counts half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pagcp_ir.channels import Keep, Units
from passes.ratios import Trim
from passes.tasks import NOT_FINITE
from specs.diagnostics import PassError
from specs.plan import Decision
from specs.search import SearchRecord

__all__ = ["Evaluation", "Losses", "Outcome", "Space", "Verdict", "finite_base", "rise", "scales", "worst_rise"]

Losses = Mapping[str, float]
Verdict = Literal["accepted", "rejected", "priced", "kept", "dropped", "undone"]


@dataclass(frozen=True)
class Evaluation:
    """One question to the oracle and what the search made of it. `rise`: L_t / B_t of the worst task.

    `samples`: how many calibration samples answered it; None: all of them.
    """

    group: str
    ratio: float
    losses: Losses
    task: str
    rise: float
    verdict: Verdict
    seconds: float
    samples: int | None = None


class Space(Protocol):
    """What a search may ask of a network. Keep-sets are bool arrays over its units."""

    @property
    def start(self) -> Keep:
        """The keep-set to start from."""

    @property
    def groups(self) -> Sequence[str]:
        """The groups that may be cut, in the network's order."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each task in sums of losses."""

    def units(self, group: str) -> Units:
        """The group's units in the original network."""

    def cut(self, keep: Keep, group: str, ratio: float) -> Trim:
        """That ratio of the group's original width cut, by score on the network as it is under `keep`."""

    def cost(self, keep: Keep) -> float:
        """What cutting is meant to save, under `keep`: MACs of one sample, or milliseconds."""

    def saved(self, before: Keep, after: Keep) -> float:
        """What going from `before` to `after` saves of what the budgets still ask for at `before`, counted in MACs."""

    @property
    def to_save(self) -> float:
        """About how much cost is to be saved from the start on: what the budgets ask for, or half of all there is."""

    def met(self, keep: Keep) -> bool:
        """Whether there are budgets and `keep` meets them all."""

    def confirmed(self, keep: Keep) -> bool:
        """Whether what is measured bears out that `keep` meets them; if not, `met` answers otherwise from then on."""

    def losses(self, keep: Keep) -> Losses:
        """Each task's mean loss over the whole calibration set under `keep`."""

    def ahead(self, group: str | None) -> None:
        """Told which group is looked at after the one that is looked at now."""

    def note(self, evaluation: Evaluation) -> None:
        """Told of every evaluation, for the journal."""

    def close(self, margin: float) -> None:
        """Told of every decision how close it was (closeness.py)."""


@dataclass(frozen=True)
class Outcome:
    """The keep-set found, why per group (in the order searched), and how the search got there.

    `span`: the search would decide alike for every growth of its tolerances from span[0] to below span[1].
    """

    keep: Keep
    decisions: tuple[Decision, ...]
    record: SearchRecord
    span: tuple[float, float] = (0.0, math.inf)


def finite_base(space: Space) -> dict[str, float]:
    """The losses at the start. PassError P404 when one of them is not finite."""
    base = dict(space.losses(space.start))
    for task, loss in base.items():
        if not math.isfinite(loss):
            raise PassError.one("P404", f"the loss of task {task!r} is {loss} before anything is cut", hint=NOT_FINITE)
    return base


def scales(tasks: Sequence[str], tolerance: float, overrides: Mapping[str, float]) -> dict[str, float]:
    """By task: what it tolerates, in units of `tolerance`."""
    return {task: overrides.get(task, tolerance) / tolerance for task in tasks}


def worst_rise(losses: Losses, base: Losses, scale: Mapping[str, float] | None = None) -> tuple[str, float]:
    """The task with the largest (L / B - 1) / scale, and its L / B (1 + rise / |B| where B <= 0).

    A loss that is not finite counts as infinite.
    """
    rises = {task: rise(losses[task], base[task]) for task in base}
    worst = max(rises, key=lambda task: (rises[task] - 1) / (scale[task] if scale else 1.0))
    return worst, rises[worst]


def rise(loss: float, base: float) -> float:
    """L / B; 1 + rise / |B| where B <= 0; infinite for a loss that is not finite."""
    if not math.isfinite(loss):
        return math.inf
    if base > 0:
        return loss / base
    if loss <= base:
        return 1.0
    return 1 + (loss - base) / abs(base) if base else math.inf
