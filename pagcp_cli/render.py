"""What the commands print on stdout, as tables that fit 80 columns. Colour only on a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pagcp_cli.advice import advice
from pagcp_cli.numbers import count, percent, size, value

if TYPE_CHECKING:
    from pagcp_cli.result import CompileResult, Exported
    from specs.back_off import BackOff
    from specs.latency import LatencyFound
    from specs.plan import Costs, Decision, Verdict
    from specs.search import SearchRecord

__all__ = [
    "WIDE",
    "change",
    "compile_report",
    "decisions_report",
    "frameless",
    "pairs",
    "text_of",
    "verdicts_report",
]

WIDE = 110
"""Columns of a terminal that have room for the metrics' names."""


def compile_report(result: CompileResult) -> str:
    """What was cut, what it cost each task, what was checked, and where it lies."""
    verification = value(result.verification.error)
    facts = [
        ("verified", f"the cuts equal the masked original within {verification}"),
        *((f"{r.format}", _parity(r)) for r in result.exports),
        ("", "(differences are relative to the scale of the output)"),
        *([("report", result.report)] if result.report else []),
        ("wrote", f"{result.out}: {', '.join(result.files)}"),
    ]
    parts: list[RenderableType] = []
    if result.decisions:
        parts += [_decisions(result.decisions), *map(_search, result.searches), ""]
    if result.verdicts:
        parts += [*_tasks(result.verdicts), ""]
    if result.back_off is not None:
        parts += [*_back_off(result.back_off, result.plan.before), ""]
    parts += [*_costs(result.plan.before, result.plan.after, result.limits, result.latency), "", pairs(facts)]
    if result.missed:
        parts += ["", *(Text(f"MISSED: {line}", style="bold red") for line in result.missed)]
    if told := advice(result):
        parts.append(Text(told))
    if result.back_off is not None and result.back_off.given:
        parts.append(Text("hint: what was given back for the guarantees is why a budget is missed"))
    elif any(line.startswith("budget ") for line in result.missed):
        parts.append(Text("hint: to cut more, give pagcp a larger total or tolerance, uniform a larger ratio"))
    return text_of(parts)


def decisions_report(decisions: Sequence[Decision], searches: Iterable[SearchRecord]) -> str:
    """One row per group, and one line per search."""
    return text_of([_decisions(decisions), *map(_search, searches)])


def change(before: str, after: str) -> str:
    """`before -> after`, or the one where they are alike, or one is empty."""
    return f"{before} -> {after}" if before and after and before != after else before or after


def _decisions(decisions: Sequence[Decision]) -> Table:
    """One row per group: width, the task that stopped or priced it, its rise, what the decision left, seconds."""
    table = frameless("group", ">width", "by task", ">rise", ">margin", ">s", gap=2)
    table.columns[0].overflow = table.columns[2].overflow = "fold"
    for d in decisions:
        width = change(str(d.width), str(d.kept))
        task = d.stopped_by or (f"({d.priced_by})" if d.priced_by else "-")
        rise, margin = ("-", "-") if not d.losses else (f"{d.rise:+.1%}", f"{d.margin:.1%}")
        table.add_row(d.group, width, task, rise, margin, f"{d.seconds:.1f}", style="" if d.kept < d.width else "dim")
    return table


def _search(record: SearchRecord) -> Text:
    """What the search cost, and what tolerance it needed."""
    told = f"{record.search}: {record.evaluations} evaluations of {count(record.samples)} samples"
    if record.factors:
        worst = record.worst
        told += f"; the loss of {worst} rose most, to {record.factors[worst]:.3g} times what it was"
    if record.total is not None:
        told += f", with total {record.total:.4g}"
    if record.unknown:
        told += f"; in {record.unknown} groups a smaller ratio was not looked at"
    if record.closest is not None:
        told += f"; a loss that differs by {100 * record.closest:.2g}% would turn the closest decision"
    if record.undone:
        told += f"; undone on all samples: {', '.join(record.undone)}"
    return Text(told)


def verdicts_report(verdicts: Sequence[Verdict]) -> str:
    """One row per task, and what its columns mean."""
    return text_of(_tasks(verdicts))


def _tasks(verdicts: Sequence[Verdict]) -> list[RenderableType]:
    wide = shutil.get_terminal_size((80, 24)).columns >= WIDE
    columns = ["task", *(["metric"] if wide else [])]
    numbers = (">dense", ">pruned", ">recovered", ">allowed", ">margin", ">drop")
    table = frameless(*columns, *numbers, "split", "verdict", gap=2 if wide else 1)
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", column.header not in columns
    for v in verdicts:
        verdict = Text("") if v.allowed is None else Text("met", "green") if v.met else Text("MISSED", "bold red")
        drop = "-" if v.interval is None else f"{value(v.interval.low)}..{value(v.interval.high)}"
        allowed, margin = ("-" if number is None else value(number) for number in (v.allowed, v.margin))
        told = (value(v.dense), value(v.pruned), value(v.recovered), allowed, margin, drop)
        table.add_row(v.task, *([v.metric] if wide else []), *told, v.split, verdict)
    return [table, *(Text(line, "dim") for line in _captions(verdicts, wide))]


def _captions(verdicts: Sequence[Verdict], wide: bool) -> Iterable[str]:
    """What the columns mean; where there is no interval, why."""
    if not wide:
        yield "; ".join(f"{v.task}: {v.metric}" for v in verdicts)
    for confidence in sorted({v.interval.confidence for v in verdicts if v.interval is not None}):
        rows = [v for v in verdicts if v.interval is not None and v.interval.confidence == confidence]
        of = sorted({f"{v.interval.resamples} paired resamples of {v.interval.of}" for v in rows if v.interval})
        whose = "" if len(rows) == len(verdicts) else f" of {', '.join(v.task for v in rows)}"
        share = percent(1 - confidence, 1)
        yield f"drop{whose}: {share} of {', '.join(of)} lie below the first number, {share} above the second"
    asked = [f"{v.task} ({v.confidence:g})" for v in verdicts if v.confidence is not None]
    if asked:
        yield f"margin: of the bound, not of the measured value, for {', '.join(asked)}"
    for v in verdicts:
        if v.note:
            yield f"no interval for {v.task}: {v.note}"
    if any(v.split == "validation" for v in verdicts):
        yield "there is no test split: this is validation, on which was chosen what to keep"


def _back_off(found: BackOff, before: Costs) -> list[RenderableType]:
    """What was given back, for which task, and what every attempt came to on validation."""
    sure = f"at {found.confidence:.0%} confidence"
    if not found.given:
        missed = found.attempts[-1].missed
        return [Text(f"nothing was given back: {'nothing was cut' if missed else 'all held on validation'} ({sure})")]
    table = frameless("given back", ">width", "for task", ">MACs")
    table.columns[0].overflow = table.columns[2].overflow = "fold"
    for each in found.given:
        table.add_row(each.group, change(str(each.before), str(each.after)), each.task, f"+{count(each.macs)}")
    lines: list[RenderableType] = [table]
    for attempt in found.attempts:
        margins = ", ".join(f"{task} {value(margin)}" for task, margin in attempt.margins.items())
        kept = percent(attempt.macs, before.macs)
        lines.append(Text(f"{kept} of MACs: margins on validation {sure}: {margins}", "dim"))
    return lines


def _costs(
    before: Costs, after: Costs, limits: Mapping[str, int], latency: LatencyFound | None
) -> Iterable[RenderableType]:
    table = frameless("cost", ">before", ">after", ">kept", ">budget", "verdict")
    for name, key, shown in (("MACs", "macs", count), ("params", "params", count), ("bytes", "bytes", size)):
        old, new, limit = getattr(before, key), getattr(after, key), limits.get(key)
        verdict = Text("")
        if limit is not None:
            verdict = Text("met", "green") if new <= limit else Text("MISSED", "bold red")
        budget = "" if limit is None else percent(limit, old)
        table.add_row(name, shown(old), shown(new), percent(new, old), budget, verdict)
    if latency is not None:
        verdict = Text("met", "green") if latency.met else Text("MISSED", "bold red")
        took = (f"{ms:.4g} ms" for ms in (latency.before, latency.after))
        table.add_row("latency", *took, f"{latency.ratio:.1%}", latency.at_most, verdict)
    yield table
    if latency is not None:
        threads = f"{latency.threads} thread{'' if latency.threads == 1 else 's'}"
        quartiles = f"{latency.low:.1%} to {latency.high:.1%}"
        told = f"measured by {latency.backend}, batch {latency.batch}, {threads}; quartiles of the ratio {quartiles}"
        yield Text(f"latency: {told}", "dim")


def _parity(found: Exported) -> str:
    told = "written" if found.parity is None else f"equals the pruned network within {value(found.parity)}"
    on = f" on {', '.join(shapes for shapes, _ in found.runs)}" if found.runs else ""
    opset = f"opset {found.opset}" if found.opset is not None else ""
    free = f"{' and '.join(found.dynamic)} free" if opset and found.dynamic else ""
    return "; ".join(filter(None, (told + on, opset, free, found.note)))


def pairs(facts: Iterable[tuple[str, str]], indent: int = 0) -> Table:
    """Names on the left, what is told of them on the right, wrapped."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, told in facts:
        table.add_row(" " * indent + name, told)
    return table


def frameless(*columns: str, gap: int = 2) -> Table:
    """A table without frames; a column that starts with > is right-aligned."""
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", no_wrap=right)
    return table


def text_of(parts: Iterable[RenderableType]) -> str:
    """What a terminal of this width would show, without trailing blanks."""
    console = Console(markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
