"""What `diff` prints: one line per layer, or the graphs' text as a unified diff; for a terminal, or as Markdown.

On 80 columns and without colour every fact is there; a terminal that has room gets bars of the widths besides.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from pagcp_cli.numbers import count, percent, size
from pagcp_cli.render import WIDE, change, frameless, text_of
from specs.diff import Change, Diff, DiffRow, LayerRow
from specs.graph_diff import GraphDiff

__all__ = ["diff_markdown", "diff_report", "graph_report"]

_MARKS: dict[Change, str] = {"same": " ", "changed": "~", "added": "+", "removed": "-"}
_STYLES: dict[Change, str] = {"same": "dim", "changed": "", "added": "green", "removed": "red"}
_BAR = 10
"""Cells of a bar: as many as are left of ten are full."""


def diff_report(found: Diff) -> str:
    """One line per layer: width, MACs, parameters, what is kept of its MACs, its share of all MACs; then the totals."""
    wide = shutil.get_terminal_size((80, 24)).columns >= WIDE
    each = _bytes_of_a_parameter(found)
    sizes = _has_bytes(found) and (wide or each is None)
    heads = ["", "layer", *(["", ">width"] if wide else [">width"]), ">MACs", ">params", *([">bytes"] if sizes else [])]
    table = frameless(*heads, ">kept", ">share", gap=2 if wide else 1)
    table.columns[1].overflow = "fold"
    for row in found.rows:
        table.add_row(_MARKS[row.change], *_cells(row, found.before.macs, wide, sizes), style=_STYLES[row.change])
    table.add_section()
    total = _total(found)
    bars = [""] if wide else []
    table.add_row("", "total", *bars, "", *total[:2], *(total[2:3] if sizes else []), total[3], "", style="bold")
    parts: list[RenderableType] = [table]
    if each is not None and not sizes:
        parts.append(Text(f"bytes: {each} for each parameter of these layers; total {total[2]}"))
    return text_of([*parts, *(Text(f"note: {note}") for note in found.notes)])


def diff_markdown(found: Diff) -> str:
    """The same facts as a table for a pull request."""
    sizes = _has_bytes(found)
    heads = ["", "layer", "", "width", "MACs", "params", *(["bytes"] if sizes else []), "kept", "share"]
    rows = [[_MARKS[row.change], *_cells(row, found.before.macs, True, sizes)] for row in found.rows]
    total = _total(found)
    rows.append(["", "**total**", "", "", *total[:2], *(total[2:3] if sizes else []), total[3], ""])
    rule = ["---" if at < 3 else "--:" for at in range(len(heads))]
    table = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [heads, rule, *rows]
    )
    return "\n\n".join([table, *(f"Note: {note}" for note in found.notes)])


def graph_report(found: GraphDiff) -> str:
    """How many nodes changed in which way, then a unified diff; every changed node carries its mark."""
    told = ", ".join(f"{number} {mark}" for mark, number in found.counts.items() if number)
    if found.equal:
        return f"the graphs are equal: {told}"
    return "\n".join([f"nodes: {told}", f"--- {found.before}", f"+++ {found.after}", *map(str, found.hunks)])


def _cells(row: DiffRow, total: int, bars: bool, sizes: bool) -> Iterator[str]:
    before, after = row.before, row.after
    yield row.name
    if bars:
        yield _bar(before.outputs if before else 0, after.outputs if after else 0)
    yield from (change(a, b) for a, b in zip(_figures(before, sizes), _figures(after, sizes), strict=True))
    known = before is not None and after is not None and before.macs is not None and after.macs is not None
    yield percent(after.macs or 0, before.macs or 0) if known and before and after else ""
    yield percent(before.macs, total) if before and before.macs is not None else ""


def _figures(layer: LayerRow | None, sizes: bool) -> Sequence[str]:
    if layer is None:
        return [""] * (4 if sizes else 3)
    macs = "?" if layer.macs is None else count(layer.macs)
    return [count(layer.outputs), macs, count(layer.params), *([size(layer.bytes or 0)] if sizes else [])]


def _bar(before: int, after: int) -> str:
    """As much of the wider of the two as the second network has; of plain letters where stdout takes no others."""
    cells = "█░" if (sys.stdout.encoding or "").lower().startswith("utf") else "#."
    full = round(_BAR * after / max(before, after, 1))
    return cells[0] * full + cells[1] * (_BAR - full)


def _total(found: Diff) -> Sequence[str]:
    """MACs, parameters and bytes, and the share of MACs that is kept."""
    before, after = found.before, found.after
    macs, params = change(count(before.macs), count(after.macs)), change(count(before.params), count(after.params))
    return [macs, params, change(size(before.bytes), size(after.bytes)), percent(after.macs, before.macs)]


def _layers(found: Diff) -> Iterable[LayerRow]:
    return (layer for row in found.rows for layer in (row.before, row.after) if layer is not None)


def _has_bytes(found: Diff) -> bool:
    return any(layer.bytes is not None for layer in _layers(found))


def _bytes_of_a_parameter(found: Diff) -> int | None:
    """Where it is the same for all layers, so that it need not stand in every line."""
    layers = [layer for layer in _layers(found) if layer.bytes is not None and layer.params]
    ratios = {(layer.bytes or 0) / layer.params for layer in layers}
    return int(ratio) if len(ratios) == 1 and (ratio := ratios.pop()) == int(ratio) else None
