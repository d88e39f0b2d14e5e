"""The figures of a report: what each shows, in words, and how it is drawn. Naming them needs no matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pagcp_cli.numbers import count, percent, value
from pagcp_cli.report.charts import drop_chart, layers_chart
from pagcp_cli.report.curves import epochs_chart, group_chart, search_chart, span_of
from pagcp_cli.report.data import Epoch, Facts, TaskFacts
from pagcp_cli.report.search import Curve, Round
from specs.plan import LayerCost

__all__ = [
    "MOST_GROUPS",
    "MOST_LAYERS",
    "Drawn",
    "drop_figure",
    "epochs_figure",
    "group_figures",
    "layer_figures",
    "search_figure",
    "shown_layers",
]

MOST_LAYERS = 60
MOST_GROUPS = 48
"""How many layers and groups are drawn: of more those with the most MACs, and those of which most is cut."""


@dataclass(frozen=True)
class Drawn:
    """A figure. `name` is unique on its page; `alt` says what it shows to who cannot see it."""

    name: str
    alt: str
    draw: Callable[[], str]


def drop_figure(number: int, task: TaskFacts) -> Drawn:
    """A task's drop, against what was allowed."""
    v, name = task.verdict, f"drop-{number}"
    parts = [f"{v.task}: {v.metric} on {v.split} is worse by {value(task.drop)}"]
    if task.interval is not None:
        parts.append(f"interval {value(task.interval.low)} to {value(task.interval.high)}")
    if task.allowed is not None:
        parts += [f"allowed {value(task.allowed)}", "met" if v.met else "missed"]
    alt = ", ".join(parts)
    return Drawn(name, alt, partial(drop_chart, name, alt, task))


def shown_layers(layers: Sequence[LayerCost]) -> tuple[LayerCost, ...]:
    """Those that are drawn, in the network's order."""
    dear = sorted(range(len(layers)), key=lambda n: -layers[n].before.macs)[:MOST_LAYERS]
    return tuple(layers[number] for number in sorted(dear))


def layer_figures(facts: Facts) -> tuple[Drawn, Drawn]:
    """Widths, and MACs, of the layers."""
    layers, plan = shown_layers(facts.plan.layers), facts.plan
    narrower = sum(x.after.outputs < x.before.outputs for x in layers)
    widths = f"Output channels of {len(layers)} layers before and after: {narrower} became narrower"
    kept = percent(plan.after.macs, plan.before.macs)
    macs = (
        f"MACs of {len(layers)} layers before and after: {count(plan.before.macs)} to {count(plan.after.macs)}, {kept}"
    )
    return (
        Drawn("widths", widths, partial(layers_chart, "widths", widths, layers, "outputs")),
        Drawn("macs", macs, partial(layers_chart, "macs", macs, layers, "macs")),
    )


def group_figures(number: int, found: Round) -> list[tuple[Curve, Drawn]]:
    """Each group's losses over the share of it that is cut, in the order of the search."""
    asked = [curve for curve in found.curves if curve.points]
    most = sorted(asked, key=lambda c: c.decision.kept - c.decision.width)[:MOST_GROUPS]
    span, tasks = span_of(found), len(found.start)
    drawn = []
    for at, curve in enumerate(c for c in asked if any(c is other for other in most)):
        name, d = f"group-{number}-{at}", curve.decision
        alt = (
            f"{d.group}: losses of {tasks} tasks at {len({p.ratio for p in curve.points})} ratios, "
            f"{d.width - d.kept} of {d.width} channels cut"
        )
        drawn.append((curve, Drawn(name, alt, partial(group_chart, name, alt, found, curve, span))))
    return drawn


def search_figure(number: int, found: Round, macs: int) -> Drawn:
    """A search in time."""
    name, seconds = f"search-{number}", found.asked[-1].at if found.asked else 0.0
    alt = f"{found.record.search}: {len(found.asked)} evaluations in {value(seconds)} seconds"
    if found.made:
        alt += f", MACs down to {percent(found.made[-1].step.cost, macs)} in {len(found.made)} cuts"
    return Drawn(name, alt, partial(search_chart, name, alt, found, macs))


def epochs_figure(run: int, epochs: Sequence[Epoch], tasks: Sequence[str], kept: int | None) -> Drawn:
    """The losses on validation while training."""
    name = f"epochs-{run}"
    alt = f"Validation losses of {len(tasks)} tasks over {len(epochs)} epochs"
    alt += f", epoch {kept} was kept" if kept else ", no epoch was kept" if kept == 0 else ""
    return Drawn(name, alt, partial(epochs_chart, name, alt, epochs, tasks, kept))
