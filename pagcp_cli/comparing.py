"""`pagcp diff`: two networks side by side, whatever they are kept in. Torch is imported where a file needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pagcp_cli.command import Json, show, told

__all__ = ["diff_command"]

_SIDES = "spec, plan.json, artifact folder, .pt2 or .onnx"


def diff_command(
    before: Annotated[Path, typer.Argument(metavar="A", help=_SIDES, show_default=False)],
    after: Annotated[
        Path | None,
        typer.Argument(metavar="B", help="the same; without it, what the plan A changes", show_default=False),
    ] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="compare the graphs' nodes instead, as a unified diff of their text")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown, for pull requests")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="exit 0 if they are equal, 1 if not, 2 if they cannot be compared")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two networks, layer by layer or node by node."""
    with told(as_json, failing=2 if exit_code else None):
        from pagcp_cli.diffed import diff_markdown, diff_report, graph_report
        from pagcp_cli.summaries import diff, diff_graphs

        if graph:
            nodes = diff_graphs(before, after)
            equal, data, text = nodes.equal, {**nodes.to_dict(), "equal": nodes.equal}, graph_report(nodes)
            text = f"```diff\n{text}\n```" if markdown else text
        else:
            found = diff(before, after)
            equal, data = found.equal, found.to_dict()
            text = diff_markdown(found) if markdown else diff_report(found)
        show(data if as_json else text)
    raise typer.Exit(1 if exit_code and not equal else 0)
