"""`pagcp report`: a result's report.html made again, or told in Markdown. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pagcp_cli.command import Json, show, told

__all__ = ["report_command"]


def report_command(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="a folder that compile wrote", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="write there, and leave OUT as it is")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown, for pull requests")] = False,
    as_json: Json = False,
) -> None:
    """Write OUT/report.html again, from the other files of OUT."""
    with told(as_json):
        from pagcp_cli.folder import writing
        from pagcp_cli.report.markdown import markdown_report
        from pagcp_cli.report.writing import read_whole, write_report

        if not markdown:
            written = write_report(folder, out)
            show({"ok": True, "report": str(written)} if as_json else f"wrote {written}")
            return
        text = markdown_report(read_whole(folder))
        if out is not None:
            with writing(out):
                out.write_text(text, encoding="utf-8", newline="\n")
            text = f"wrote {out}"
        show({"ok": True, "markdown": text} if as_json else text)
