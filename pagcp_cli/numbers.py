"""Numbers for people: 12.3M, 456k, 39.5%, 3.1e-07. Four significant characters, so that columns stay narrow."""

from __future__ import annotations

__all__ = ["count", "percent", "size", "value"]


def count(number: int) -> str:
    """A count with three significant digits: 812, 45.6k, 12.3M, 1.20G."""
    return _scaled(number, ("", "k", "M", "G", "T"), "")


def size(number: int) -> str:
    """Bytes: 812 B, 45.6 kB, 12.3 MB."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"), " ")


def percent(part: float, whole: float) -> str:
    """The share in percent, one decimal; "-" of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else "-"


def value(number: float) -> str:
    """A metric or a loss: four significant digits."""
    return f"{number:.4g}" if abs(number) < 1e-3 or abs(number) >= 1e4 else f"{number:.4f}"[:6].rstrip(".")


def _scaled(number: int, units: tuple[str, ...], gap: str) -> str:
    scaled, unit = float(number), 0
    while abs(scaled) >= 999.5 and unit < len(units) - 1:
        scaled, unit = scaled / 1000, unit + 1
    if unit == 0:
        return f"{number}{gap}{units[0]}".strip()
    digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{digits}f}{gap}{units[unit]}"
