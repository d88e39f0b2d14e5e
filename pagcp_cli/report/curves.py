"""The charts of a report that show how it came about: losses over ratios, the search in time, training.

Losses are drawn as factors over what they were at the start, on a logarithmic axis; colours go by task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pagcp_cli.report.data import Epoch
from pagcp_cli.report.drawing import BAD, GOOD, INK, MUTED, SERIES, canvas
from pagcp_cli.report.search import Curve, Round, factor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["REJECTED", "TOP", "epochs_chart", "group_chart", "search_chart", "span_of"]

TOP = 100.0
"""Factors beyond it are drawn at it."""
REJECTED = ("rejected", "dropped", "undone")
_STOPS = (0.1, 0.2, 0.5, 0.8, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def span_of(found: Round) -> tuple[float, float]:
    """The factors that all curves of a round are drawn between, so that they can be compared."""
    return _span([f for curve in found.curves for point in curve.points for f in point.factors.values()])


def group_chart(name: str, alt: str, found: Round, curve: Curve, span: tuple[float, float]) -> str:
    """Every task's factor over the share of the group that is cut; what was accepted is marked."""
    with canvas(name, alt, 300, 176) as made:
        axes = made.axes(44, 34, 16, 8)
        for number, task in enumerate(found.start):
            series = SERIES[number % len(SERIES)]
            asked = [(p.ratio, p.verdict, p.factors[task]) for p in curve.points if task in p.factors]
            latest = {0.0: 1.0, **{ratio: f for ratio, _, f in asked}}
            axes.plot(*_line(latest, span), color=series.colour, linestyle=series.dash, marker="None", alpha=0.9)
            for verdict, fill in (("", series.colour), ("rejected", "none")):
                points = {r: f for r, v, f in asked if (v == "rejected") == (verdict == "rejected")}
                style: dict[str, Any] = {"color": series.colour, "marker": series.marker, "markerfacecolor": fill}
                axes.plot(*_line(points, span), linestyle="None", **style)
        ratio = 1 - curve.decision.kept / curve.decision.width
        axes.axvline(ratio, color=INK, linewidth=1.6, linestyle=(0, (3, 2)))
        axes.set_xlim(-0.02, 1.0)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100%"])
        axes.set_xlabel("channels cut", labelpad=2)
        _factors(axes, span)
    return made.svg


def search_chart(name: str, alt: str, found: Round, macs: int) -> str:
    """Above, the MACs that are left after each cut; below, the worst factor of every evaluation."""
    with canvas(name, alt, 440, 330 if found.made else 220) as made:
        lower = made.axes(52, 36, 26, 176 if found.made else 26)
        _asked(lower, found)
        if found.made:
            upper = made.axes(52, 190, 26, 26)
            numbers = [0, *(each.number for each in found.made), len(found.asked)]
            left = [each.step.cost / macs * 100 for each in found.made]
            first = 100.0 if not found.made else max(100.0, left[0])
            upper.step(numbers, [first, *left, left[-1]], where="post", color=GOOD, linewidth=2)
            upper.set_ylim(0, 104)
            upper.set_ylabel("MACs left, %", labelpad=4)
            upper.set_xlim(*lower.get_xlim())
            upper.tick_params(axis="x", labelbottom=False)
            _seconds(upper, found)
        else:
            _seconds(lower, found)
    return made.svg


def epochs_chart(name: str, alt: str, epochs: Sequence[Epoch], tasks: Sequence[str], best: int | None) -> str:
    """Each task's validation loss over that of the first epoch shown; the epoch that was kept is marked."""
    first = epochs[0].losses
    lines = {task: {e.epoch: factor(e.losses[task], first[task]) for e in epochs if task in e.losses} for task in tasks}
    span = _span([f for line in lines.values() for f in line.values()])
    with canvas(name, alt, 440, 220) as made:
        axes = made.axes(52, 36, 14, 10)
        for number, line in enumerate(lines.values()):
            series = SERIES[number % len(SERIES)]
            style: dict[str, Any] = {"linestyle": series.dash, "marker": series.marker if len(line) < 40 else "None"}
            axes.plot(*_line(line, span), color=series.colour, **style)
        if best:
            axes.axvline(best, color=INK, linewidth=1.6, linestyle=(0, (3, 2)))
        axes.set_xlabel("epoch", labelpad=2)
        axes.locator_params(axis="x", integer=True, nbins=10)
        _factors(axes, span)
    return made.svg


def _asked(axes: Axes, found: Round) -> None:
    span = _span([f for a in found.asked for f in found.factors(a.losses).values()])
    worst = {a.number: max(found.factors(a.losses).values(), default=math.nan) for a in found.asked}
    rejected = {a.number for a in found.asked if a.verdict in REJECTED}
    for chosen, colour, marker in ((False, GOOD, "o"), (True, BAD, "x")):
        points = {number: f for number, f in worst.items() if (number in rejected) == chosen}
        axes.plot(*_line(points, span), linestyle="None", color=colour, marker=marker, markersize=3.5, alpha=0.8)
    axes.set_xlim(0, len(found.asked) + 1)
    axes.set_xlabel("evaluations", labelpad=2)
    axes.set_ylabel("worst loss", labelpad=4)
    _factors(axes, span)


def _seconds(axes: Axes, found: Round) -> None:
    """Seconds above the axis, at some of the evaluations."""
    end = len(found.asked)
    marks = sorted({max(1, round(end * part / 3)) for part in range(1, 4)}) if end else []
    twin = axes.secondary_xaxis("top")
    twin.set_xticks(marks, [f"{found.asked[mark - 1].at:.3g} s" for mark in marks])
    twin.spines["top"].set_visible(False)
    twin.tick_params(length=0, labelcolor=MUTED)


def _span(factors: Iterable[float]) -> tuple[float, float]:
    finite = [min(max(f, _STOPS[0]), TOP) for f in factors if math.isfinite(f)] or [1.0]
    low, high = min(0.97, *finite), max(1.1, *finite)
    return low / 1.03, high * 1.05


def _line(points: Mapping[Any, float], span: tuple[float, float]) -> tuple[list[float], list[float]]:
    """The points in order; what lies outside the span is drawn at its edge."""
    order = sorted(points)
    return [float(x) for x in order], [min(max(points[x], span[0]), span[1]) for x in order]


def _factors(axes: Axes, span: tuple[float, float]) -> None:
    axes.set_yscale("log")
    axes.set_ylim(*span)
    stops = [stop for stop in _STOPS if span[0] <= stop <= span[1]]
    apart, kept = math.log(span[1] / span[0]) / 6, list[float]()
    for stop in sorted(stops, key=lambda s: (s != 1.0, s)):
        if all(abs(math.log(stop / other)) >= apart for other in kept):
            kept.append(stop)
    axes.set_yticks(kept, [f"{stop:g}×" for stop in kept])
    axes.minorticks_off()
    axes.axhline(1, color=MUTED, linewidth=1)
