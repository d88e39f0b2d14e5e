"""Cutting by score: a ratio of a group's ORIGINAL width, its lowest units first, within the limits of the options.

Of `width` units floor(ratio * width) are cut in all, those already cut included, so that rounds never compound.
On every axis that a group's units lie on, weights and activations alike, at least max(1, min_channels) stay, and
with `round_to` the group's kept units there are a multiple of it, or all that were there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from pagcp_ir.channels import ChannelGraph, Group, Keep, Units
from specs.diagnostics import PassError, nearest
from specs.options import SelectorOptions

__all__ = ["Cutter", "Scores", "Trim", "least"]

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Trim:
    """A keep-set with a group cut further, and what kept it from being cut as far as asked ("" if nothing)."""

    keep: Keep
    note: str = ""


@dataclass(frozen=True)
class _Limits:
    """What a group's cuts must respect. `lies[a, u]`: how often the group's unit u lies on axis a."""

    group: Group
    free: NDArray[np.bool_]
    lies: NDArray[np.int64]
    floors: NDArray[np.int64]
    axes: tuple[Units, ...]
    most: int
    round_to: int


@dataclass(frozen=True)
class Cutter:
    """Cuts groups of `channels` (the ORIGINAL network's) under a selector's options."""

    channels: ChannelGraph
    options: SelectorOptions

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups of which something may be cut, in the graph's order."""
        return tuple(limits.group for limits in self._limits.values() if limits.free.any() and limits.most > 0)

    def cut(self, keep: Keep, group: Group, scores: Scores | None, ratio: float) -> Trim:
        """`keep` with floor(ratio * width) of the group's units cut. Ties in score go by index.

        scores: float [width] over group.units; None: the criterion says nothing of this group, nothing is cut.
        """
        if scores is None:
            return Trim(keep, "the criterion gives this group no scores")
        limits = self._limits[group.name]
        inside = keep[group.units]
        # 1e-9: a ratio like 0.15 must not lose a unit to its binary expansion
        asked = math.floor(ratio * len(group.units) + 1e-9)
        count = min(asked, limits.most) - int((~inside).sum())
        candidates = np.flatnonzero(inside & limits.free)
        order = candidates[np.argsort(scores[candidates], kind="stable")]
        chosen, note = self._within(limits, keep, order, max(count, 0))
        if not note and asked > limits.most:
            note = f"max_ratio lets no more than {limits.most} of {len(group.units)} channels go"
        if limits.round_to > 1 and len(chosen):
            chosen, note = _rounded(limits, inside, chosen, scores, note)
        if not len(chosen):
            return Trim(keep, note)
        cut = keep.copy()
        cut[group.units[chosen]] = False
        return Trim(cut, note)

    def _within(
        self, limits: _Limits, keep: Keep, order: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.int64], str]:
        """The first `count` of `order` that leave enough channels on every axis, and why there are fewer."""
        left = np.array([int(keep[axis].sum()) for axis in limits.axes], dtype=np.int64)
        whole = np.array([len(axis) for axis in limits.axes], dtype=np.int64)
        floor = np.maximum(limits.floors, np.minimum(self.options.min_channels, whole))
        if bool((left - limits.lies[:, order[:count]].sum(axis=1) >= floor).all()):
            short = "the rest of its units are pinned" if len(order) < count else ""
            return order[:count], short
        chosen: list[int] = []
        for unit in order:
            if len(chosen) == count:
                break
            after = left - limits.lies[:, unit]
            if bool((after >= floor).all()):
                left = after
                chosen.append(int(unit))
        note = "" if len(chosen) == count else f"at least {max(1, self.options.min_channels)} channels stay"
        return np.array(chosen, dtype=np.int64), note

    @cached_property
    def _limits(self) -> Mapping[str, _Limits]:
        self._check_scopes()
        every = self.channels.distinct_axes
        places = [np.full(axis.size, i) for i, axis in enumerate(every)]
        at = (np.concatenate(places), np.concatenate(every)) if every else (np.zeros(0, int), np.zeros(0, int))
        shape = (len(every), self.channels.n_units)
        counts = coo_matrix((np.ones(len(at[0]), dtype=np.int64), at), shape=shape).tocsc()
        free = self.channels.free
        found = {}
        for group in self.channels.groups:
            inside = counts[:, group.units]
            touched = np.unique(inside.indices)
            ratio, multiple = self._scoped(group.name)
            found[group.name] = _Limits(
                group=group,
                free=free[group.units],
                lies=inside[touched].toarray(),
                axes=tuple(every[i] for i in touched),
                floors=self.channels.floors[touched],
                most=math.floor(ratio * len(group.units) + 1e-9),
                round_to=multiple,
            )
        return found

    def _scoped(self, name: str) -> tuple[float, int]:
        """max_ratio and round_to of a group: the strictest of what holds everywhere and in each matching scope."""
        ratio, multiple = self.options.max_ratio, self.options.round_to
        for glob, scope in self.options.scopes.items():
            if fnmatchcase(name, glob):
                ratio = ratio if scope.max_ratio is None else min(ratio, scope.max_ratio)
                multiple = multiple if scope.round_to is None else math.lcm(multiple, scope.round_to)
        return ratio, multiple

    def _check_scopes(self) -> None:
        names = [group.name for group in self.channels.groups]
        for glob in self.options.scopes:
            if not any(fnmatchcase(name, glob) for name in names):
                raise PassError.one("P402", f"the scope {glob!r} matches no group", hint=nearest(glob, names))


def _rounded(
    limits: _Limits, inside: NDArray[np.bool_], chosen: NDArray[np.int64], scores: Scores, note: str
) -> tuple[NDArray[np.int64], str]:
    """Take cuts back, highest score first, until every axis keeps a multiple of round_to or all it has."""
    before = limits.lies[:, inside].sum(axis=1)
    narrow_first = np.argsort(before, kind="stable")
    lies, before = limits.lies[narrow_first], before[narrow_first]
    cut = set(map(int, chosen))
    while cut:
        gone = lies[:, sorted(cut)].sum(axis=1)
        off = np.flatnonzero((gone > 0) & ((before - gone) % limits.round_to != 0))
        if not len(off):
            if len(cut) < len(chosen):
                note = f"kept {int(inside.sum()) - len(cut)}, a multiple of {limits.round_to}"
            return np.array(sorted(cut), dtype=np.int64), note
        # a unit that lies on no narrower axis, where there is one: those are right already
        axis = int(off[0])
        there = [u for u in cut if lies[axis, u]]
        cut.remove(min(there, key=lambda u: (int((lies[:axis, u] > 0).sum()), -scores[u], -u)))
    width = int(inside.sum())
    return chosen[:0], f"{width} channels cannot be cut to a multiple of {limits.round_to} at this ratio"


def least(channels: ChannelGraph, keep: Keep, options: SelectorOptions) -> Keep:
    """The keep-set with every group cut as far as the options allow: what no selector can go below."""
    cutter = Cutter(channels, options)
    for group in cutter.groups:
        lies = cutter._limits[group.name].lies.sum(axis=0)
        # units that lie on many axes first: they cost most
        keep = cutter.cut(keep, group, -lies.astype(np.float64), options.deepest).keep
    return keep
