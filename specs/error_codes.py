"""docs/error-codes.md, made of CODES: `python -m specs.error_codes` writes it in a checkout."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from specs.diagnostics import CODES
from specs.explanations import EXPLAINED

__all__ = ["KINDS", "PAGE", "error_codes_page"]

PAGE = Path(__file__).parents[1] / "docs" / "error-codes.md"
_HEAD = (
    "# Error codes\n\nEvery message carries one of these codes; codes never change their meaning. "
    "`pagcp explain CODE` prints one entry.\n"
)
KINDS = {
    "S": ("The spec", 2),
    "T": ("Tracing the network", 1),
    "G": ("The channel graph", 1),
    "P": ("Passes", 1),
    "V": ("Verification", 1),
    "E": ("Writing artifacts", 1),
    "D": ("Data, losses and metrics", 1),
    "R": ("Several processes", 1),
    "L": ("Plans", 1),
}


def error_codes_page() -> str:
    """The page: one table for each kind of error."""
    parts = [_HEAD]
    order = list(KINDS)
    codes = sorted(CODES, key=lambda code: (order.index(code[0]), code))
    for letter, group in groupby(codes, key=lambda code: code[0]):
        title, status = KINDS[letter]
        rows = "".join(_row(code) for code in group)
        head = "| code | meaning | how one gets there | what to do |\n|---|---|---|---|\n"
        parts.append(f"## {title}\n\nExit code {status}.\n\n{head}{rows}")
    return "\n".join(parts)


def _row(code: str) -> str:
    return f"| {code} | {' | '.join(text.replace('|', chr(92) + '|') for text in (CODES[code], *EXPLAINED[code]))} |\n"


if __name__ == "__main__":
    PAGE.write_text(error_codes_page(), encoding="utf-8")
