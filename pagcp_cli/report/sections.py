"""The parts of a report that say how the result came about: layers, groups, searches, training, pins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from pagcp_cli.numbers import count, percent, value
from pagcp_cli.report.curves import REJECTED, TOP
from pagcp_cli.report.data import Facts
from pagcp_cli.report.drawing import SERIES, coloured
from pagcp_cli.report.figures import (
    Drawn,
    epochs_figure,
    group_figures,
    layer_figures,
    search_figure,
    shown_layers,
)
from pagcp_cli.report.html import Child, Markup, el, join, table
from pagcp_cli.report.search import Round
from specs.plan import Decision

__all__ = ["Draw", "back_off", "figure", "groups", "layers", "pins", "recovery", "searches"]

Draw = Callable[[Drawn], Markup]
"""Gives a figure's SVG."""


def figure(draw: Draw, drawn: Drawn, *caption: Child, **attributes: str | None) -> Markup:
    """A figure with its caption above it."""
    return el("figure", el("figcaption", *caption), draw(drawn), **attributes)


def section(title: str, *parts: Child) -> Markup:
    """A part of the page under its heading."""
    return el("section", el("h2", title), *parts)


def change(before: int, after: int) -> str:
    """`before → after`, or the one where they are alike."""
    return count(before) if before == after else f"{count(before)} → {count(after)}"


def layers(facts: Facts, draw: Draw) -> Markup:
    """Widths and MACs, drawn and as a table."""
    plan = facts.plan
    shown, total = len(shown_layers(plan.layers)), len(plan.layers)
    of = "" if shown == total else f" The {shown} of {total} layers with the most MACs are drawn; the table has all."
    drawn = [
        figure(draw, each, el("strong", title))
        for each, title in zip(layer_figures(facts), ("Output channels", "MACs of one sample"), strict=True)
    ]
    rows = (
        (
            x.name,
            x.kind,
            change(x.before.outputs, x.after.outputs),
            change(x.before.macs, x.after.macs),
            percent(x.after.macs, x.before.macs),
            change(x.before.params, x.after.params),
        )
        for x in plan.layers
    )
    columns = ("layer", "kind", ">channels", ">MACs", ">MACs kept", ">parameters")
    return section(
        "Where it became smaller",
        el("p", "Pale: before. Blue: what is left." + of),
        el("div", *drawn, class_="pair"),
        el("details", el("summary", f"All {total} layers as a table"), table("Layers before and after", columns, rows)),
    )


def groups(facts: Facts, draw: Draw) -> Markup | None:
    """Each group's curves and decision; of several rounds each on its own."""
    if not facts.decisions:
        return None
    parts: list[Child] = []
    for number, found in enumerate(facts.rounds):
        if figures := group_figures(number, found):
            parts += [_round(facts, number), *_explained(facts, found)]
            cards = [
                figure(draw, drawn, el("strong", c.decision.group), " ", el("span", _told(c.decision)))
                for c, drawn in figures
            ]
            parts.append(el("div", *cards, class_="cards"))
    rows = [
        (
            d.group,
            change(d.width, d.kept),
            d.stopped_by or (f"({d.priced_by})" if d.priced_by else "–"),
            f"{d.rise:+.1%}" if d.losses else "–",
            f"{d.margin:.1%}" if d.losses else "–",
            d.reason,
        )
        for d in facts.decisions
    ]
    columns = ("group", ">channels", "by task", ">rise", ">margin", "*why not more")
    return section("Each group of channels", *parts, table("Decisions, in the order of the search", columns, rows))


def _explained(facts: Facts, found: Round) -> Iterable[Child]:
    told = "How each task's calibration loss grows as more of a group's channels go: 1× is as before"
    told += ", without what the other groups' cuts did meanwhile." if found.made else " any cut."
    points = [point for curve in found.curves for point in curve.points]
    if any(point.verdict == "rejected" for point in points):
        told += " Hollow: rejected."
    told += " The dashed line is what was cut in the end" + ("; swaps moved some." if found.record.swaps else ".")
    if max((f for point in points for f in point.factors.values()), default=1.0) > TOP:
        told += f" Beyond {TOP:g}× a loss is drawn at {TOP:g}×."
    if not found.record.start:
        told += " The result does not say the losses before any cut; the least that were measured stand for them."
    drawn, asked = len(group_figures(0, found)), sum(bool(curve.points) for curve in found.curves)
    if drawn < asked:
        told += f" The {drawn} of {asked} groups of which most is cut are drawn; the table has all."
    yield el("p", told)
    yield legend([task for task in facts.in_order if task in found.start])


def _told(decision: Decision) -> str:
    by = f", stopped by {decision.stopped_by}" if decision.stopped_by else ""
    return f"{change(decision.width, decision.kept)}{by}"


def _round(facts: Facts, number: int) -> Markup | None:
    return el("h3", f"Round {number + 1}") if len(facts.rounds) > 1 else None


def legend(tasks: Sequence[str]) -> Markup:
    """Colour and marker of each task, in the order in which they are drawn."""
    entries = []
    for number, task in enumerate(tasks):
        series = SERIES[number % len(SERIES)]
        entries.append(
            el("li", el("b", series.glyph, style=f"color: {coloured(series.colour)}", aria_hidden="true"), task)
        )
    return el("ul", *entries, class_="legend", aria_label="Tasks")


def searches(facts: Facts, draw: Draw) -> Markup | None:
    """The searches in time."""
    parts: list[Child] = []
    for number, found in enumerate(facts.rounds):
        parts += [_round(facts, number), el("p", _search(found))]
        if found.asked:
            caption = (
                "Above, what is left after each cut; below, each evaluation's worst loss over that before any cut."
            )
            caption = caption if found.made else "Each evaluation's worst loss over that before any cut."
            crosses = " Crosses: not taken." if any(a.verdict in REJECTED for a in found.asked) else ""
            drawn = search_figure(number, found, facts.plan.before.macs)
            parts.append(figure(draw, drawn, caption + crosses, class_="wide"))
    return section("The search", *parts) if parts else None


def _search(found: Round) -> str:
    record = found.record
    told = f"{record.search}: {record.evaluations} evaluations of {count(record.samples)} samples"
    told += f" in {record.seconds:.3g} s" if record.seconds else ""
    if record.factors:
        told += f"; the loss of {record.worst} rose most, to {record.factors[record.worst]:.3g} times what it was"
    if record.total is not None:
        told += f", with total {record.total:.4g}"
    if record.closest is not None:
        told += f"; a loss that differs by {100 * record.closest:.2g}% would turn the closest decision"
    if record.undone:
        told += f"; undone on all samples: {', '.join(record.undone)}"
    return told + "."


def recovery(facts: Facts, draw: Draw) -> Markup | None:
    """What refit kept, and how training went."""
    parts: list[Child] = []
    if facts.refits:
        kept = sum(refit.kept for refit in facts.refits)
        rows = ((r.layer, r.what, "kept" if r.kept else "left", r.reason) for r in facts.refits)
        tried = table("What refit tried", ("layer", "what", "kept", "*why not"), rows)
        summary = el("summary", f"refit changed {kept} of the {len(facts.refits)} layers and statistics that it tried")
        parts.append(el("details", summary, tried))
    for run, found in groupby(facts.epochs, key=lambda epoch: epoch.run):
        epochs = list(found)
        best = facts.kept[run] if run < len(facts.kept) else None
        tasks = [task for task in facts.in_order if task in epochs[0].losses]
        seconds = sum(epoch.seconds for epoch in epochs)
        parts.append(el("h3", "Training" if len({e.run for e in facts.epochs}) == 1 else f"Training {run + 1}"))
        which = "none was kept: the network before was better" if best == 0 else f"epoch {best} was kept"
        if len(epochs) == 1:
            parts.append(el("p", f"One epoch in {seconds:.3g} s; {which}."))
            continue
        told = f"{len(epochs)} epochs in {seconds:.3g} s; {which}. Validation losses over those of the first epoch."
        drawn = epochs_figure(run, epochs, tasks, best)
        parts += [legend(tasks), figure(draw, drawn, told, class_="wide")]
    return section("Recovery", *parts) if parts else None


def back_off(facts: Facts) -> Markup | None:
    """What was given back to keep the guarantees."""
    if facts.back_off is None:
        return None
    given, attempts = facts.back_off["given"], facts.back_off["attempts"]
    sure = f"{facts.back_off['confidence']:.0%}"
    if not given:
        return section("Given back", el("p", "Nothing was given back."))
    rows = ((g["group"], change(g["before"], g["after"]), g["task"], f"+{count(g['macs'])}") for g in given)
    tries = (
        (
            str(number),
            percent(a["macs"], facts.plan.before.macs),
            ", ".join(f"{task} {value(float(margin))}" for task, margin in a["margins"].items()),
        )
        for number, a in enumerate(attempts, 1)
    )
    columns = ("attempt", ">MACs kept", f"*margins on validation, at {sure} confidence")
    return section(
        "Given back",
        el("p", "A guarantee was missed on validation, so cuts went back where it costs most, and recovery ran again."),
        table("Groups that got channels back", ("group", ">channels", "for task", ">MACs"), rows),
        table("Attempts", columns, tries),
    )


def pins(facts: Facts) -> Markup | None:
    """What may not be cut, and why."""
    if not facts.plan.pins:
        return None
    rows = ((p.group, str(len(p.units)), p.reason, el("code", p.where) if p.where else "") for p in facts.plan.pins)
    columns = ("group", ">channels", "*reason", "where")
    return section("What may not be cut", table("Pinned channels, with reason and line", columns, rows))


def all_of(parts: Iterable[Markup | None]) -> Markup:
    """The parts that there are."""
    return join(part for part in parts if part is not None)
