"""A chart as inline SVG: matplotlib draws it, and what is written is the same whenever the data are.

Text stays text, in the page's font; colours are the page's, so that light, dark and print need no other drawing. The
palette is that of Okabe and Ito; every series also has a marker and a dash of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BAD",
    "GOOD",
    "INK",
    "LINE",
    "MUTED",
    "SERIES",
    "Canvas",
    "Series",
    "canvas",
    "coloured",
    "shortened",
    "version",
]

INK, MUTED, LINE = "#010101", "#020202", "#030303"
"""Stand for the page's own colours: text, secondary text, grid."""
GOOD, BAD = "#0072b2", "#d55e00"
_PAGE = {INK: "currentColor", MUTED: "var(--muted)", LINE: "var(--line)", GOOD: "var(--blue)"}
_POINTS = 72.0
"""matplotlib's points to the inch: with them one point is one unit of the viewBox."""
_OPTIONS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "path.simplify": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Series:
    """How one series is drawn. `glyph`: its marker as a letter, for legends."""

    colour: str
    marker: str
    glyph: str
    dash: str


SERIES = (
    Series("#0072b2", "o", "●", "-"),
    Series("#d55e00", "s", "■", "--"),
    Series("#009e73", "^", "▲", "-."),
    Series("#cc79a7", "D", "◆", ":"),
    Series("#e69f00", "v", "▼", "-"),
    Series("#56b4e9", "P", "✚", "--"),
)


class Canvas:
    """A figure of `width` by `height` units with one or more axes; `svg` is set when its block ends."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height
        self.svg = ""

    def axes(self, left: float, bottom: float, right: float, top: float) -> Axes:
        """Axes whose frame lies that many units from each side of the figure."""
        w, h = self.width, self.height
        return self.figure.add_axes((left / w, bottom / h, (w - left - right) / w, (h - bottom - top) / h))


@contextmanager
def canvas(name: str, alt: str, width: float, height: float) -> Iterator[Canvas]:
    """A canvas to draw on. `name`, different for each chart of a page, keeps ids apart; `alt` says what is shown."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_OPTIONS, "svg.hashsalt": name}):
        made = Canvas(Figure(figsize=(width / _POINTS, height / _POINTS)), width, height)
        yield made
        text = StringIO()
        made.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, dpi=_POINTS)
    made.svg = _inline(text.getvalue(), name, alt)


def version() -> str:
    """matplotlib's."""
    from importlib.metadata import version

    return version("matplotlib")


def coloured(colour: str) -> str:
    """The colour as the page has it, in light and in dark."""
    return _PAGE.get(colour, colour)


def shortened(name: str, most: int) -> str:
    """The name in at most so many characters, its end for sure: that tells layers apart."""
    if len(name) <= most:
        return name
    head = (most - 1) // 3
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


def _inline(svg: str, name: str, alt: str) -> str:
    """What goes into a page: no prolog, no metadata, no names of formats, no id that nothing refers to."""
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], used), body)
    box = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg)
    assert box is not None
    wide, high = f"{float(box[1]):g}", f"{float(box[2]):g}"
    size = f'viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
    root = f'<svg {size} role="img" data-chart="{escape(name)}" aria-label="{escape(alt)}">'
    return re.sub(r"\n\s*", "\n", root + body[body.index(">") + 1 :])


def _tag(tag: str, used: set[str]) -> str:
    """One tag of the drawing, in terms of the page; text between tags is left as it is."""
    tag = tag.replace('xlink:href="#', 'href="#').replace("; stroke-linecap: square", "")
    for colour, there in _PAGE.items():
        tag = tag.replace(colour, there)
    tag = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", tag)
    tag = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    return re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag)
