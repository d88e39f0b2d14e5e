"""The charts of a report that show what became of the tasks and of the layers. Each gives the text of one SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pagcp_cli.numbers import count, value
from pagcp_cli.report.data import TaskFacts
from pagcp_cli.report.drawing import BAD, GOOD, INK, LINE, MUTED, canvas, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from specs.plan import LayerCost

__all__ = ["drop_chart", "layers_chart"]

WIDE, ROW, LABELS = 410.0, 19.0, 20
"""Of charts with a row per layer: their width, a row's height, and characters of a layer's name."""
BEFORE, AFTER = "#8a94a0", "#0072b2"


def drop_chart(name: str, alt: str, task: TaskFacts) -> str:
    """A bar from 0 to the drop, its interval, and a line at the drop allowed; in the metric's unit."""
    allowed, span, good = task.allowed, task.interval, task.verdict.met
    told = [task.drop, *([] if allowed is None else [allowed]), *([] if span is None else [span.low, span.high])]
    shown = [0.0, *(number for number in told if math.isfinite(number))]
    room = (max(shown) - min(shown)) or 1.0
    with canvas(name, alt, 330, 108) as made:
        axes = made.axes(14, 26, 14, 22)
        axes.set_xlim(min(shown) - 0.08 * room, max(shown) + 0.08 * room)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.axvline(0, color=MUTED, linewidth=1)
        if math.isfinite(task.drop):
            axes.barh(0, task.drop, height=0.95, color=GOOD if good else BAD, alpha=0.85)
        if span is not None:
            axes.plot([span.low, span.high], [0, 0], color=INK, linewidth=1.4, solid_capstyle="butt")
            for end in (span.low, span.high):
                axes.plot([end, end], [-0.25, 0.25], color=INK, linewidth=1.4)
        if allowed is not None and math.isfinite(allowed):
            axes.plot([allowed, allowed], [-1, 1], color=INK, linewidth=2, linestyle=(0, (3, 2)))
            right = allowed > (max(shown) + min(shown)) / 2
            axes.text(
                allowed, 1.1, f"allowed {value(allowed)}", ha="right" if right else "left", va="bottom", color=INK
            )
        axes.xaxis.set_major_formatter(lambda x, _: value(x) if abs(x) > 1e-12 else "0")
        axes.locator_params(axis="x", nbins=5)
    return made.svg


def layers_chart(name: str, alt: str, layers: Sequence[LayerCost], what: str) -> str:
    """A row per layer with two bars, before and after: `what` is "outputs" or "macs"."""
    rows = [(shortened(x.name, LABELS), getattr(x.before, what), getattr(x.after, what)) for x in layers]
    with canvas(name, alt, WIDE, ROW * len(rows) + 34) as made:
        axes = made.axes(126, 6, 88, 22)
        _bars(axes, rows, count)
        axes.xaxis.tick_top()
        axes.xaxis.set_major_formatter(lambda x, _: count(round(x)))
        axes.locator_params(axis="x", nbins=4, integer=True)
    return made.svg


def _bars(axes: Axes, rows: Sequence[tuple[str, float, float]], told: Callable[[int], str]) -> None:
    places = range(len(rows))
    axes.barh(places, [row[1] for row in rows], height=0.74, color=BEFORE, alpha=0.35)
    axes.barh(places, [row[2] for row in rows], height=0.46, color=AFTER)
    axes.set_yticks(places, [row[0] for row in rows], color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max((row[1] for row in rows), default=0) or 1)
    axes.grid(False, axis="y")
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_color(LINE)
    for place, (_, before, after) in zip(places, rows, strict=True):
        text = told(int(after)) if before == after else f"{told(int(before))} → {told(int(after))}"
        axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=10, color=INK)
