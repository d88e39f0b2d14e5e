"""report.html in the folder: written, made again, and held against the folder's other files.

Its text follows from the other files alone, its drawings from them and the version of matplotlib.
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pagcp_cli.folder import JOURNAL, REPORT, writing
from pagcp_cli.report.data import Facts, read_facts
from pagcp_cli.report.drawing import version as drawn_by
from pagcp_cli.report.page import page
from pagcp_cli.result import CompileResult
from pagcp_cli.sums import check_sums, reseal
from specs.diagnostics import EmitError

__all__ = ["INSTALL", "can_draw", "read_whole", "report_differs", "report_html", "reported", "write_report"]

INSTALL = "pip install 'pagcp[report]'"
_SOURCES = ("plan.json", "plan.safetensors", "evidence.json", "spec.lock.yaml", JOURNAL)
_BY = re.compile(r'<meta name="generator" content="([^"]*)">')
_SVG = re.compile(r"<svg .*?</svg>", re.DOTALL)


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def report_html(facts: Facts) -> str:
    """The page with its drawings. EmitError E616 without matplotlib."""
    if not can_draw():
        raise EmitError.one("E616", "the report's charts need matplotlib, which is not installed", hint=INSTALL)
    return page(facts, lambda drawn: drawn.draw(), f"pagcp {version('pagcp')}, matplotlib {drawn_by()}")


def read_whole(folder: Path) -> Facts:
    """What the folder says. EmitError E610 for a file that is not as it was written, E611 for one that is none."""
    damaged = [d for d in check_sums(folder) if Path(d.where or "").name in _SOURCES]
    if damaged:
        raise EmitError(damaged)
    return read_facts(folder)


def write_report(folder: Path, to: Path | None = None) -> Path:
    """Make the report of that folder, in it or in the file `to`, and list it among the folder's sums."""
    target = to or folder / REPORT
    text = report_html(read_whole(folder))
    with writing(target):
        target.write_text(text, encoding="utf-8", newline="\n")
        if to is None:
            reseal(folder, REPORT)
    return target


def reported(result: CompileResult, folder: Path) -> CompileResult:
    """The result with its report written to `folder`, which is about to be listed and to become the result's.

    What hours have found does not fail for want of a drawing: then the result says how to get one.
    """
    again = f"pagcp report {result.out}"
    if not can_draw():
        return replace(result, report=f"not drawn, for want of matplotlib: {INSTALL}, then {again}")
    try:
        text = report_html(read_facts(folder))
    except Exception as error:  # noqa: BLE001 - a bug in a drawing must not take the result with it
        return replace(result, report=f"not drawn, {again} tries again: {type(error).__name__}: {error}")
    (folder / REPORT).write_text(text, encoding="utf-8", newline="\n")
    return replace(result, files=tuple(sorted({*result.files, REPORT})))


def report_differs(folder: Path) -> str:
    """In what way the report is not that of the folder's other files; "" where it is, or cannot be told.

    Drawings are not made again: the file's sum holds them.
    """
    text = (folder / REPORT).read_text(encoding="utf-8")
    by = _BY.search(text)
    if by is None or by[1].split(",")[0] != f"pagcp {version('pagcp')}":
        return ""
    same = _SVG.sub("", text) == page(read_facts(folder), lambda drawn: "", by[1])
    return "" if same else "is not the report of the other files"
