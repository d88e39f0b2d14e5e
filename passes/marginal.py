"""Cut next the step that costs the worst task least, per unit of cost that it saves, until the budgets are met.

The price of a step from one ratio of the grid to the next is the largest load that it adds to a task, over what it
saves. Prices wait in a queue as they were last measured. They mostly rise as the network shrinks, so that the cheapest
is measured again before it is believed, until it stays the cheapest. Where steps are strides (option `moves`), nearly
the cheapest is good enough, and a group's next one is expected to be dearer. The step that meets the budgets is made no
larger than that takes. Then swaps are tried, and what was found is measured on all samples.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

from pagcp_ir.channels import Keep
from passes.space import Outcome, Space, finite_base, rise
from passes.swaps import swap
from passes.walk import Appraiser, FullAppraiser, Move, Walk, Yardstick
from specs.options import PagcpOptions
from specs.plan import Decision, indices, ranges
from specs.search import PathStep, SearchRecord

__all__ = ["marginal", "read_off"]

NEAR = 0.85
"""A stride's price over that of the cheapest other one, up to 1 / NEAR, is as good as the cheapest."""


def marginal(space: Space, options: PagcpOptions, appraiser: Appraiser | None = None) -> Outcome:
    """Search the space. PassError P404: a loss that is not finite before any cut."""
    appraiser = appraiser or FullAppraiser(space)
    base = finite_base(space)
    tolerance = {task: options.tolerances.get(task, options.tolerance) for task in base}
    walk = Walk(space, options, appraiser, Yardstick(options.bounded(base), tolerance), space.start, base)
    for group in space.groups:
        walk.push(group, -math.inf)
    while walk.queue and not walk.done():
        _advance(walk)
    path = tuple(_path_step(space, move) for move in walk.moves)
    swaps = swap(walk) if walk.done() else 0
    undone = _settle(walk)
    record = SearchRecord(
        search="marginal",
        factors={task: rise(loss, base[task]) for task, loss in walk.losses.items()},
        total=None if options.total == "auto" else options.total,
        swaps=swaps,
        undone=undone,
        path=path,
        start=base,
    )
    return Outcome(walk.keep, tuple(_decisions(walk)), record)


def _advance(walk: Walk) -> None:
    """Price the cheapest move again and make it, or put it back when it is the cheapest no longer."""
    group = heapq.heappop(walk.queue)[3]
    version, move = walk.priced.get(group, (-1, None))
    if move is None or version != len(walk.moves):
        move = walk.priced_move(group)
        if move is None:
            return
        near = NEAR if walk.stride else 1.0
        walk.dearer(move, walk.queue[0][0] / near if walk.queue else math.inf)
        if walk.queue and (move.price * near, -move.saved) > walk.queue[0][:2]:
            walk.push(group, move.price, move.saved)
            return
    walk.take(move)
    # the next one is hardly cheaper
    walk.push(group, move.price / NEAR if walk.stride else move.price, move.saved)


def _settle(walk: Walk) -> tuple[str, ...]:
    """Measure on all samples what was found; take moves back, the last one first, while a task exceeds the total."""
    undone: list[str] = []
    while True:
        walk.losses = walk.space.losses(walk.keep)
        if walk.holds() or not walk.moves:
            return tuple(undone)
        move = walk.moves.pop()
        walk.keep = move.given_back(walk.keep)
        undone.append(move.group)


def read_off(space: Space, path: Sequence[PathStep], limit: float) -> Keep:
    """The keep-set of the first place on the path that costs at most `limit`: the search's answer to that budget."""
    keep: Keep = space.start.copy()
    for step in path:
        if space.cost(keep) <= limit:
            break
        keep[space.units(step.group)[list(indices(step.removed))]] = False
    return keep


def _path_step(space: Space, move: Move) -> PathStep:
    units = space.units(move.group)
    removed = ranges(int(i) for i in np.flatnonzero(move.before[units] & ~move.after[units]))
    cost = space.cost(move.after)
    return PathStep(move.group, move.ratio, removed, cost, move.task, move.price, dict(move.losses))


def _decisions(walk: Walk) -> list[Decision]:
    dearest = max((move.price for move in walk.moves), default=0.0)
    return [_decision(walk, group, dearest) for group in walk.space.groups]


def _decision(walk: Walk, group: str, dearest: float) -> Decision:
    units, moves = walk.space.units(group), [move for move in walk.moves if move.group == group]
    kept, last = int(walk.keep[units].sum()), moves[-1] if moves else None
    base = walk.yardstick.base
    added = (
        sum(rise(m.losses[last.task], base[last.task]) - rise(m.origin[last.task], base[last.task]) for m in moves)
        if last
        else 0.0
    )
    task, reason = walk.stopped.get(group, ("", ""))
    following = walk.priced.get(group, (0, last))[1]
    margin = (
        max(0.0, following.price / dearest - 1)
        if following is not None and following is not last and dearest > 0
        else 0.0
    )
    if not reason:
        first = "its next cut" if moves else "its first cut"
        reason = f"{first} would have been {1 + margin:.2f} times as dear as the dearest that was made"
    return Decision(
        group=group,
        width=len(units),
        kept=kept,
        stopped_by=task or None,
        ratio=1 - kept / len(units),
        losses={} if last is None else dict(last.losses),
        margin=margin,
        reason=reason,
        seconds=walk.seconds.get(group, 0.0),
        rise=added,
        priced_by=None if last is None else last.task,
    )
