"""The searches of a result, as the journal and evidence.json tell them: what was asked, what was made of it, in order.

A loss's factor is the loss over what it was before the search cut anything, as `passes.space.rise` has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pagcp_cli.report.rows import row_of
from specs.plan import Decision
from specs.search import PathStep, SearchRecord

__all__ = ["Asked", "Curve", "Made", "Point", "Round", "factor", "rounds_of"]

_SWAPS = ("kept", "dropped", "undone")


@dataclass(frozen=True)
class Asked:
    """One evaluation: the `number`-th of its search, from 1, which was `at` that many seconds when it was answered."""

    group: str
    ratio: float
    losses: Mapping[str, float]
    verdict: str
    seconds: float = 0.0
    number: int = 0
    at: float = 0.0


@dataclass(frozen=True)
class Made:
    """A cut that was made after `number` evaluations, what the network costs then, and what it loses."""

    number: int
    step: PathStep


@dataclass(frozen=True)
class Point:
    """What one evaluation says of the group that it is of: each task's factor that is this group's own."""

    ratio: float
    factors: Mapping[str, float]
    verdict: str


@dataclass(frozen=True)
class Curve:
    """One group: its decision, and what was asked of it, in order."""

    decision: Decision
    points: tuple[Point, ...]


@dataclass(frozen=True, eq=False)
class Round:
    """One search. `start`: the losses before it, by task; where an older result does not say, the least seen."""

    record: SearchRecord
    asked: tuple[Asked, ...]
    made: tuple[Made, ...]
    curves: tuple[Curve, ...]
    start: Mapping[str, float]

    def factors(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Each task's loss over that at the start."""
        return {task: factor(losses[task], base) for task, base in self.start.items() if task in losses}


def factor(loss: float, base: float) -> float:
    """L / B, and 1 + rise / |B| where B <= 0; infinite for a loss that is no number."""
    if not math.isfinite(loss):
        return math.inf
    if base > 0:
        return loss / base
    return 1.0 if loss <= base else (1 + (loss - base) / abs(base) if base else math.inf)


def rounds_of(
    searches: Sequence[Mapping[str, Any]],
    decisions: Sequence[Mapping[str, Any]],
    journal: Sequence[Mapping[str, Any]],
) -> tuple[Round, ...]:
    """One round per search, in order. Decisions without losses are of passes that ask nothing, and stay aside."""
    records = [_record(row) for row in searches]
    asked = [*_asked(journal)]
    asked += [()] * (len(records) - len(asked))
    by_round = _decided([row_of(Decision, row) for row in decisions], len(records))
    return tuple(_round(*parts) for parts in zip(records, asked, by_round, strict=False))


def _record(row: Mapping[str, Any]) -> SearchRecord:
    path = tuple(row_of(PathStep, step) for step in row.get("path") or ())
    return row_of(SearchRecord, {**row, "path": path})


def _asked(journal: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Asked, ...]]:
    """The evaluations of each run of a pass that asks any; what backing off asks has no rise, and is not a search's."""
    found: list[Asked] = []
    runs: list[tuple[str, tuple[Asked, ...]]] = []
    for record in journal:
        if record["kind"] == "evaluation" and "rise" in record:
            asked = row_of(Asked, record)
            at = (found[-1].at if found else 0.0) + asked.seconds
            found.append(replace(asked, number=len(found) + 1, at=at))
        elif record["kind"] == "pass_end":
            runs.append((str(record["name"]), tuple(found)))
            found = []
    asking = {name for name, asked in runs if asked}
    yield from (asked for name, asked in runs if name in asking)


def _decided(decisions: Sequence[Decision], rounds: int) -> list[list[Decision]]:
    """A round's decisions are those up to the next one on a group that it has decided on already."""
    found: list[list[Decision]] = [[]]
    for decision in decisions:
        if any(decision.group == other.group for other in found[-1]):
            found.append([])
        found[-1].append(decision)
    return found[-rounds:] + [[] for _ in range(rounds - len(found))] if rounds else []


def _round(record: SearchRecord, asked: tuple[Asked, ...], decisions: Sequence[Decision]) -> Round:
    start = dict(record.start) or _least(asked)
    made = tuple(_made(record.path, asked))
    points = _points(start, asked, made)
    curves = tuple(Curve(decision, tuple(points.get(decision.group, ()))) for decision in decisions)
    return Round(record, asked, made, curves, start)


def _points(start: Mapping[str, float], asked: Sequence[Asked], made: Sequence[Made]) -> dict[str, list[Point]]:
    """By group: its own part in the losses, that is without what the cuts of other groups did in between.

    A cut of the group takes the losses from L to L'; its part is the product of L' / L over its cuts so far, and over
    the one that is asked about. Swaps, which change two groups at once, are left out.
    """
    found: dict[str, list[Point]] = {}
    now, parts, waiting = dict(start), dict[str, dict[str, float]](), list(made)
    for each in asked:
        while waiting and waiting[0].number < each.number:
            step = waiting.pop(0).step
            parts[step.group] = _part(parts.get(step.group, {}), step.losses, now)
            now = {**now, **step.losses}
        if each.verdict not in _SWAPS:
            factors = _part(parts.get(each.group, {}), each.losses, now)
            found.setdefault(each.group, []).append(Point(each.ratio, factors, each.verdict))
    return found


def _part(before: Mapping[str, float], losses: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    return {task: before.get(task, 1.0) * factor(loss, now[task]) for task, loss in losses.items() if task in now}


def _least(asked: Sequence[Asked]) -> dict[str, float]:
    tasks = asked[0].losses if asked else {}
    return {task: min((a.losses[task] for a in asked if task in a.losses), default=math.nan) for task in tasks}


def _made(path: Sequence[PathStep], asked: Sequence[Asked]) -> Iterator[Made]:
    """When each step was made: after the evaluation that gave its losses, or else with the step before it."""
    number = 0
    for step in path:
        for each in asked[number:]:
            if each.group == step.group and dict(each.losses) == dict(step.losses):
                number = each.number
                break
        yield Made(number, step)
