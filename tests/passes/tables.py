"""Spaces that are tables: groups of ten units, scores are the indices, losses are looked up."""

from dataclasses import dataclass, field

import numpy as np

from passes.ratios import Trim
from passes.space import Evaluation
from specs.options import PagcpOptions

WIDTH = 10
GRID = (0.1, 0.2, 0.3)


@dataclass
class Table:
    """losses: units removed per group -> loss per task. macs: per unit of each group. limit: MACs that are enough.

    `asked`: what was looked up, once each, as the oracle remembers its answers.
    """

    groups: tuple[str, ...]
    table: dict[tuple[int, ...], dict[str, float]]
    unit_macs: dict[str, int]
    limit: int = -1
    weights: dict[str, float] = field(default_factory=lambda: {"t": 1.0})
    asked: list[tuple[int, ...]] = field(default_factory=list)
    seen: list[Evaluation] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    announced: list[str | None] = field(default_factory=list)

    @property
    def start(self):
        return np.ones(WIDTH * len(self.groups), dtype=np.bool_)

    def units(self, group):
        at = self.groups.index(group) * WIDTH
        return np.arange(at, at + WIDTH)

    def cut(self, keep, group, ratio):
        made = keep.copy()
        made[self.units(group)[: int(ratio * WIDTH + 1e-9)]] = False
        return Trim(made)

    def removed(self, keep):
        return tuple(int((~keep[self.units(g)]).sum()) for g in self.groups)

    def cost(self, keep):
        return sum(self.unit_macs[g] * (WIDTH - gone) for g, gone in zip(self.groups, self.removed(keep), strict=True))

    def saved(self, before, after):
        return self.cost(before) - self.cost(after)

    def met(self, keep):
        return self.cost(keep) <= self.limit

    def confirmed(self, keep):
        return True

    @property
    def to_save(self):
        return self.cost(self.start) - max(self.limit, 0)

    def losses(self, keep):
        key = self.removed(keep)
        if key not in self.asked:
            self.asked.append(key)
        return self.table[key]

    def ahead(self, group):
        self.announced.append(group)

    def close(self, margin):
        self.margins.append(margin)

    def note(self, evaluation):
        self.seen.append(evaluation)


def options(**given):
    return PagcpOptions(
        **{"tolerance": 0.1, "total": 2.0, "grid": GRID, "stop": "tolerance", "search": "published", **given}
    )


class Formula:
    """A table whose entries are computed."""

    def __init__(self, losses):
        self.losses = losses

    def __getitem__(self, key):
        return self.losses(key)


def one(*losses, **more):
    """One group: the losses with 0, 1, 2, ... units removed."""
    return Table(("a",), {(i,): {"t": loss} for i, loss in enumerate(losses)}, {"a": 1}, **more)


def two(losses, macs, **more):
    """Two groups, one task."""
    return Table(("a", "b"), {key: {"t": loss} for key, loss in losses.items()}, macs, **more)


def kept(outcome):
    return {d.group: d.kept for d in outcome.decisions}
