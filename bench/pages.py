"""Pages whose figures are tables of stored results, between <!-- NAME --> and <!-- end of NAME -->."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["PAGE", "put", "shown"]

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
"""Where they stand unless another one is named."""


def shown(page: str, name: str, table: str, fenced: bool = True) -> str:
    """The page with that table between the marks of that name. ValueError where it has none.

    `fenced`: as it is, and not as Markdown.
    """
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = f"```\n{table}\n```" if fenced else table
    made, count = re.subn(f"{first}.*?{last}", lambda _: f"{first}\n{text}\n{last}", page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has {count} places for {name}")
    return made


def put(name: str, table: str, page: Path = PAGE, fenced: bool = True) -> None:
    """Write it there."""
    page.write_text(shown(page.read_text(encoding="utf-8"), name, table, fenced), encoding="utf-8")
