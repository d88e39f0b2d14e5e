"""HTML from Python values: every text is escaped, unless it is Markup, which only `el` and `raw` make."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["Markup", "el", "join", "raw", "table"]

_VOID = ("meta", "br", "hr")
_SIDES = {">": "num", "*": "long"}


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Child = str | Markup | None


def raw(text: str) -> Markup:
    """The text as HTML, unescaped: for what this package wrote."""
    return Markup(text)


def join(parts: Iterable[Child]) -> Markup:
    """The parts one after the other; None is left out."""
    return Markup("".join(p if isinstance(p, Markup) else escape(p) for p in parts if p is not None))


def el(tag: str, *children: Child, **attributes: str | None) -> Markup:
    """An element. A trailing _ of an attribute's name falls, another becomes a hyphen; None leaves it out."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    told = "".join(f' {name}="{escape(value)}"' for name, value in given.items())
    return Markup(f"<{tag}{told}>" + ("" if tag in _VOID else f"{join(children)}</{tag}>"))


def table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[Child]], **attributes: str) -> Markup:
    """A table whose first column heads its rows; > before a column's name aligns right, * is for sentences."""
    names = list(columns)
    side = [_SIDES.get(name[:1], "word") for name in names]
    head = join(el("th", name.lstrip(">*"), class_=s, scope="col") for name, s in zip(names, side, strict=True))
    lines = [
        el("td", cell, class_=s) if at else el("th", cell, class_=s, scope="row")
        for row in rows
        for at, (cell, s) in enumerate(zip(row, side, strict=True))
    ]
    body = (el("tr", join(lines[at : at + len(names)]), "\n") for at in range(0, len(lines), len(names)))
    inner = el("table", el("caption", caption), el("thead", el("tr", head)), el("tbody", join(body)), **attributes)
    return el("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)
