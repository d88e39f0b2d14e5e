"""What `bench` prints: one line per artifact and setting, the ratio with its spread, then the layers. 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from pagcp_cli.benching import Bench, Measured
from pagcp_cli.command import wrapped
from pagcp_cli.numbers import count, percent, size
from pagcp_cli.render import change, frameless, text_of
from pagcp_ir.timing.layers import LayerTime
from pagcp_ir.timing.race import Spread

__all__ = ["bench_report"]

_SIDES = "AB"


def bench_report(found: Bench) -> str:
    """Races first, then layers; layers whose MACs fell and whose time did not are marked and explained."""
    paths = list(dict.fromkeys(row.path for row in found.rows))
    parts: list[RenderableType] = [Text(f"{_SIDES[n]}: {path}") for n, path in enumerate(paths)]
    table = frameless("backend", ">batch", ">threads", "", ">ms", ">quartiles", ">/s", ">memory", gap=2)
    last: tuple[str, ...] = ()
    for row, side in zip(found.rows, _sides(found.rows), strict=True):
        setting: tuple[str, ...] = row.backend, str(row.batch), str(row.threads)
        shown = setting if setting != last else ("", "", "")
        last = setting
        table.add_row(*shown, side, _ms(row.ms.median), _range(row.ms), _rate(row.per_second), size(row.peak))
        if row.ratio is not None:
            table.add_row("", "", "", "B/A", f"{row.ratio.median:.3f}", _ratios(row.ratio), "", "", style="bold")
    parts += ["", table]
    if found.layers:
        parts += ["", *_layers(found.layers)]
    return text_of(parts)


def _sides(rows: Sequence[Measured]) -> Iterator[str]:
    """A or B: the second of a race has a ratio."""
    for row in rows:
        yield "A" if row.ratio is None else "B"


def _layers(layers: Sequence[LayerTime]) -> Iterator[RenderableType]:
    table = frameless("", "layer, alone", ">widths", ">MACs", ">ms", ">kept", ">share", gap=1)
    table.columns[1].overflow = "fold"
    total = sum(layer.ms[0] or 0.0 for layer in layers)
    for layer in layers:
        first, last = layer.ms[0], layer.ms[-1]
        kept = percent(last, first) if len(layer.ms) > 1 and first and last else ""
        table.add_row(
            "!" if layer.stuck else " ",
            layer.name,
            change(*_ends(tuple(f"{a}x{b}" for a, b in layer.widths))),
            change(*_ends(tuple("?" if macs is None else count(macs) for macs in layer.macs))),
            change(*_ends(tuple("?" if ms is None else _ms(ms) for ms in layer.ms))),
            kept,
            percent(first or 0.0, total),
            style="bold" if layer.stuck else "",
        )
    yield table
    stuck = [layer for layer in layers if layer.stuck]
    if not stuck:
        return
    yield Text(f"! {len(stuck)} of {len(layers)} layers have fewer MACs and take as long as before:")
    told: dict[str, list[str]] = {}
    for layer in stuck:
        told.setdefault(_advice(layer), []).append(layer.name)
    for advice, names in told.items():
        yield Text(wrapped(f"{', '.join(names)}: {advice}"))
    multiples = Counter(layer.round_to for layer in stuck if layer.round_to is not None)
    if multiples:
        best = max(multiples, key=lambda multiple: (multiples[multiple], multiple))
        yield Text(f"hint: round_to: {best} in the selector's options keeps widths at multiples of {best}")


def _advice(layer: LayerTime) -> str:
    if layer.round_to is None or layer.rounded is None:
        return "no multiple of 4, 8 or 16 is faster"
    up = "x".join(str(-(-width // layer.round_to) * layer.round_to) for width in layer.widths[-1])
    now = _ms(layer.ms[-1] or 0.0)
    return f"{_ms(layer.rounded)} ms instead of {now} at multiples of {layer.round_to} ({up})"


def _ends(texts: tuple[str, ...]) -> tuple[str, str]:
    return texts[0], texts[-1]


def _ms(ms: float) -> str:
    """Three significant digits."""
    return f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"


def _range(spread: Spread) -> str:
    return f"{_ms(spread.low)}..{_ms(spread.high)}"


def _ratios(spread: Spread) -> str:
    return f"{spread.low:.3f}..{spread.high:.3f}"


def _rate(number: float) -> str:
    return count(round(number)) if number >= 10 else f"{number:.2g}"
