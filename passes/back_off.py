"""on_miss: back_off. What misses a guarantee on validation gets cuts back, and is recovered again, until all hold.

The network that the selectors got is cut anew, less deep, so that SHARES of the MACs that were cut are there again:
first those that cost the task with the worst margin most (giving_back.py). Then the transformers run again.

Validation is looked at again and again, and epochs were chosen on it: so that what holds there holds on test, it is not
the measured value that has to hold, but its bound at the confidence SAFETY (bootstrap.py), where it can be found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

from pagcp_ir.program import Program
from passes.base import Context, Pass, State
from passes.bootstrap import Drawn, drawn_pairs
from passes.giving_back import Giving
from passes.measure import measured
from passes.resampling import Resampled
from passes.tasks import Task
from specs.back_off import Attempt, BackOff, GivenBack
from specs.diagnostics import Diagnostic, PassError

__all__ = ["SAFETY", "SHARES", "back_off"]

SAFETY = 0.8
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8)
"""Of the MACs that were cut: what is given back at most after each miss."""


def back_off(passes: Sequence[Pass], start: State, end: State, ctx: Context) -> tuple[State, BackOff]:
    """Give cuts of `end` back until its guarantees hold. PassError P411 when nothing is left to give back."""
    judge = _Judge(start.program, ctx)
    attempts, given = [judge.attempt(end)], list[GivenBack]()
    if end.uncut is None:  # nothing was cut: nothing can be given back
        return end, BackOff(tuple(attempts), (), SAFETY)
    giving = Giving(passes, start, end, ctx)
    for number, share in enumerate(SHARES, 1):
        if not attempts[-1].missed:
            break
        worst = judge.worst(attempts[-1])
        more = giving.until(end.keep, worst, share)
        if not more.given:  # so much is there already
            continue
        given += more.given
        told = [f"{each.group} {each.before} -> {each.after}" for each in more.given]
        ctx.note("back_off", attempt=number, task=worst, margins=dict(attempts[-1].margins), given=told)
        if bool(more.keep.all()):
            break
        end = giving.recovered(end, more.keep, more.given)
        attempts.append(judge.attempt(end))
    if attempts[-1].missed:
        raise _nothing_left(attempts, end, judge.beyond(attempts[-1]))
    return end, BackOff(tuple(attempts), _merged(given), SAFETY)


class _Judge:
    """Holds networks against the guarantees on validation."""

    def __init__(self, original: Program, ctx: Context) -> None:
        self._original, self._ctx = original, ctx
        self._split = ctx.need_data("on_miss: back_off")["validation"]
        self._tasks = [task for task in ctx.tasks if task.guarantee is not None]

    def attempt(self, state: State) -> Attempt:
        """How the state's program does."""
        found = self._ctx.once("guarantees on validation", state.program, lambda: self._numbers(state.program))
        values, margins = ({t.name: found[f"{what} {t.name}"] for t in self._tasks} for what in ("value", "margin"))
        return Attempt(state.plan.after.macs, state.plan.after.params, values, margins)

    def worst(self, attempt: Attempt) -> str:
        """The missed task whose margin is the worst, in units of what it may lose."""

        def relative(name: str) -> float:
            task = next(task for task in self._tasks if task.name == name)
            dense = self._dense[name].value
            assert task.guarantee is not None
            loses = abs(dense - task.guarantee.allowed(dense, task.higher_is_better)) or abs(dense) or 1.0
            margin = attempt.margins[name] / loses
            return -math.inf if math.isnan(margin) else margin

        return min(attempt.missed, key=relative)

    def beyond(self, attempt: Attempt) -> list[str]:
        """The missed tasks whose guarantee the original network does not keep either."""
        tasks = (task for task in self._tasks if task.name in attempt.missed)
        return [task.name for task in tasks if self._room(task, self._dense[task.name].value) < 0]

    @cached_property
    def _dense(self) -> Mapping[str, Resampled]:
        return self._measured(self._original)

    def _measured(self, program: Program) -> Mapping[str, Resampled]:
        return measured(program, self._tasks, self._split, [task.name for task in self._tasks])

    def _numbers(self, program: Program) -> dict[str, float]:
        now = self._measured(program)
        found = {}
        for task in self._tasks:
            found[f"value {task.name}"] = now[task.name].value
            found[f"margin {task.name}"] = self._margin(task, self._dense[task.name], now[task.name])
        return found

    def _room(self, task: Task, value: float) -> float:
        assert task.guarantee is not None
        return task.guarantee.room(self._dense[task.name].value, value, higher_is_better=task.higher_is_better)

    def _margin(self, task: Task, dense: Resampled, now: Resampled) -> float:
        """How far the bound, or where there is none the value, stays from the worst value allowed."""
        assert task.guarantee is not None
        room = partial(task.guarantee.room, higher_is_better=task.higher_is_better)
        margin, asked = self._room(task, now.value), task.guarantee.confidence
        drawn = drawn_pairs(dense, now, self._ctx.seed, patient=True)
        if isinstance(drawn, Drawn):
            margin = min(margin, drawn.bound(max(SAFETY, asked or 0.0), room))
        elif asked is not None:
            return math.nan
        slack = task.guarantee.slack(dense.value, task.higher_is_better)
        return max(margin, 0.0) if margin >= -slack else margin


def _merged(given: Sequence[GivenBack]) -> tuple[GivenBack, ...]:
    """One row per group and task."""
    found: dict[tuple[str, str], GivenBack] = {}
    for each in given:
        key = each.group, each.task
        old = found.get(key)
        found[key] = each if old is None else replace(each, before=old.before, macs=old.macs + each.macs)
    return tuple(found.values())


def _nothing_left(attempts: Sequence[Attempt], end: State, beyond: Sequence[str]) -> PassError:
    whole = end.plan.before.macs
    found = [Diagnostic("P411", "nothing is left to give back: the guarantees do not hold on validation")]
    for each in attempts:
        short = ", ".join(f"{task!r} by {-each.margins[task]:.4g}" for task in each.missed)
        found.append(Diagnostic("P411", f"with {each.macs / whole:.1%} of the MACs kept, the bound misses {short}"))
    found += [Diagnostic("P411", f"the original itself misses the guarantee of {task!r}") for task in beyond]
    hint = "allow a larger drop, train longer, or measure on more validation samples"
    found[-1] = replace(found[-1], hint=hint)
    return PassError(found)
