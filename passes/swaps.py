"""Swap moves: a group's dearest last step is given back, the cheapest steps of the others take its place.

Prices choose what to try. A swap is kept only when, on all samples, the largest load of a task is smaller after it.
"""

from __future__ import annotations

import time
from dataclasses import replace

from passes.space import Evaluation, Verdict, rise
from passes.walk import Move, Walk

__all__ = ["swap"]

MOST = 4
"""Steps that may take the place of one."""


def swap(walk: Walk) -> int:
    """Try at most `swaps` of them, the dearest first; how many were kept."""
    tried, kept = set[str](), 0
    for _ in range(walk.options.swaps):
        back = _dearest(walk, tried)
        if back is None:
            break
        taken = _replacement(walk, back)
        if taken and _improves(walk, back, taken):
            kept += 1
            tried.clear()
        else:
            tried.add(back.group)
    return kept


def _dearest(walk: Walk, tried: set[str]) -> Move | None:
    """Of the groups' last moves, and of groups not tried, the one with the highest price."""
    last = {move.group: move for move in walk.moves}
    found = [move for group, move in last.items() if group not in tried]
    ranked = sorted(found, key=lambda move: -move.price)
    if len(ranked) > 1:
        walk.dearer(ranked[0], ranked[1].price)
    return ranked[0] if ranked else None


def _replacement(walk: Walk, back: Move) -> list[Move]:
    """The cheapest moves that meet the budgets without `back`; [] when a few do not."""
    keep, prices = back.given_back(walk.keep), _prices(walk, back.group)
    taken: list[Move] = []
    while prices and len(taken) < MOST:
        group, *others = sorted(prices, key=lambda group: prices[group])
        if others:
            walk.dearer(walk.priced[group][1], prices[others[0]])
        move = walk.next_move(group, keep)
        if move is None:
            del prices[group]
            continue
        task = walk.priced[group][1].task
        taken.append(replace(move, task=task, price=prices[group]))
        keep = move.after
        if walk.space.met(keep):
            return taken
    return []


def _prices(walk: Walk, without: str) -> dict[str, float]:
    """The last known price of each group's next move."""
    return {
        group: move.price for group, (_, move) in walk.priced.items() if group != without and group not in walk.stopped
    }


def _improves(walk: Walk, back: Move, taken: list[Move]) -> bool:
    """Measure the swap, and make it if it is better."""
    began, keep = time.perf_counter(), taken[-1].after
    found = walk.appraiser.better(keep, walk.keep, walk.yardstick)
    walk.compared(found.losses)
    if found.better:
        walk.moves.remove(back)
        walk.moves += [replace(move, origin=walk.losses, losses=found.losses) for move in taken]
        walk.keep, walk.losses = keep, found.losses
    task, _ = walk.yardstick.worst(found.losses)
    rose = rise(found.losses[task], walk.yardstick.base[task])
    seconds = time.perf_counter() - began
    verdict: Verdict = "kept" if found.better else "dropped"
    walk.space.note(Evaluation(back.group, back.ratio, found.losses, task, rose, verdict, seconds, found.samples))
    return found.better
