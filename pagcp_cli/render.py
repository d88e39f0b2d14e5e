"""What the commands print on stdout, as tables that fit 80 columns. Colour only on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pagcp_cli.numbers import count, percent, size, value

if TYPE_CHECKING:
    from pagcp_cli.driver import CompileResult
    from specs.diff import Diff, DiffRow
    from specs.plan import Costs, Verdict

__all__ = ["compile_report", "diff_report", "pairs", "text_of"]

_MARKS = {"same": " ", "changed": "~", "added": "+", "removed": "-"}
_STYLES = {"same": "dim", "changed": "", "added": "green", "removed": "red"}


def compile_report(result: CompileResult) -> str:
    """What was cut, what it cost each task, what was checked, and where it lies."""
    verification = value(result.verification.error)
    facts = [
        ("verified", f"the cuts equal the masked original within {verification}"),
        *((f"{r.format}", _parity(r.parity, r.note)) for r in result.exports),
        ("", "(differences are relative to the scale of the output)"),
        ("wrote", f"{result.out}: {', '.join(result.files)}"),
    ]
    parts: list[RenderableType] = []
    if result.verdicts:
        parts += [_tasks(result.verdicts), ""]
    parts += [_costs(result.plan.before, result.plan.after, result.limits), "", pairs(facts)]
    if result.missed:
        parts += ["", *(Text(f"MISSED: {line}", style="bold red") for line in result.missed)]
    if any(line.startswith("budget ") for line in result.missed):
        parts.append(Text("hint: to cut more, give pagcp a larger total or tolerance, uniform a larger ratio"))
    return text_of(parts)


def diff_report(found: Diff) -> str:
    """One line per layer: width, MACs, parameters, what is kept of the layer, and its share of all MACs."""
    table = _table("", "layer", ">width", ">MACs", ">params", ">kept", ">share", gap=1)
    table.columns[1].overflow = "fold"
    for row in found.rows:
        table.add_row(*_diff_cells(row, found.before.macs), style=_STYLES[row.change])
    before, after = found.before, found.after
    table.add_section()
    kept = percent(after.macs, before.macs)
    params = _change(count(before.params), count(after.params))
    table.add_row("", "total", "", _change(count(before.macs), count(after.macs)), params, kept, "", style="bold")
    return text_of([table])


def _diff_cells(row: DiffRow, total: int) -> tuple[str, ...]:
    before, after = row.before, row.after
    old = (count(before.outputs), count(before.macs), count(before.params)) if before else ("", "", "")
    new = (count(after.outputs), count(after.macs), count(after.params)) if after else ("", "", "")
    width, macs, params = (_change(a, b) for a, b in zip(old, new, strict=True))
    kept = percent(after.macs, before.macs) if before and after else ""
    share = percent(before.macs, total) if before else ""
    return _MARKS[row.change], row.name, width, macs, params, kept, share


def _change(before: str, after: str) -> str:
    return f"{before} -> {after}" if before and after and before != after else before or after


def _tasks(verdicts: Sequence[Verdict]) -> Table:
    table = _table("task", "metric", ">dense", ">pruned", ">allowed", "verdict", "split")
    table.columns[1].overflow = "fold"
    for v in verdicts:
        verdict = Text("met", "green") if v.met else Text("MISSED", "bold red")
        table.add_row(v.task, v.metric, value(v.dense), value(v.pruned), value(v.allowed), verdict, v.split)
    return table


def _costs(before: Costs, after: Costs, limits: Mapping[str, int]) -> Table:
    table = _table("cost", ">before", ">after", ">kept", ">budget", "verdict")
    for name, key, shown in (("MACs", "macs", count), ("params", "params", count), ("bytes", "bytes", size)):
        old, new, limit = getattr(before, key), getattr(after, key), limits.get(key)
        verdict = Text("")
        if limit is not None:
            verdict = Text("met", "green") if new <= limit else Text("MISSED", "bold red")
        budget = "" if limit is None else percent(limit, old)
        table.add_row(name, shown(old), shown(new), percent(new, old), budget, verdict)
    return table


def _parity(parity: float | None, note: str) -> str:
    told = "written" if parity is None else f"equals the pruned network within {value(parity)}"
    return f"{told}; {note}" if note else told


def pairs(facts: Iterable[tuple[str, str]], indent: int = 0) -> Table:
    """Names on the left, what is told of them on the right, wrapped."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, told in facts:
        table.add_row(" " * indent + name, told)
    return table


def _table(*columns: str, gap: int = 2) -> Table:
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
