"""The commands that document themselves from the code: the passes with their options, and error codes. Torch-free."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pagcp_cli.command import Json, show, told
from specs.diagnostics import SpecError, nearest

__all__ = ["explain_command", "passes_command"]


def passes_command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="of one pass; without it all", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the passes, their options and defaults."""
    with told(as_json):
        from pagcp_cli.explained import passes_report
        from specs.catalogue import catalogue

        found = catalogue()
        if name is not None:
            names = [each.name for each in found]
            found = tuple(each for each in found if each.name == name)
            if not found:
                raise SpecError.one("S107", f"there is no pass {name!r}", hint=nearest(name, names))
        show([asdict(each) for each in found] if as_json else passes_report(found))


def explain_command(
    code: Annotated[str, typer.Argument(metavar="CODE", help="as in error[S104]", show_default=False)],
    as_json: Json = False,
) -> None:
    """Say what an error code means and what to do."""
    with told(as_json):
        from pagcp_cli.explained import explanation_report
        from specs.explanations import explain

        found = explain(code)
        show(asdict(found) if as_json else explanation_report(found))
