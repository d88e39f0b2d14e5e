"""`pagcp init`: a first spec of any module:callable. Nothing here imports torch before it has to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pagcp_cli.command import Inputs, Json, show, told
from specs.diagnostics import SpecError

__all__ = ["init_command"]


def init_command(
    factory: Annotated[
        str, typer.Argument(metavar="MODULE:CALLABLE", help="what returns the network", show_default=False)
    ],
    inputs: Inputs = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="write the spec there; else it is printed")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace FILE")] = False,
    as_json: Json = False,
) -> None:
    """Write a first spec of a network, with what was found in it."""
    with told(as_json):
        from pagcp_cli.folder import writing
        from pagcp_cli.subject import made_subject

        spec = made_subject(factory, inputs or (), out)
        if out is not None and out.exists() and not force:
            raise SpecError.one("S119", f"{out} exists", hint="--force replaces it")
        from pagcp_cli.initial import initial_spec
        from pagcp_cli.outline import outline

        known = outline(spec)
        text = initial_spec(known, str(out or f"{factory.partition(':')[0].rpartition('.')[2]}.yaml"))
        if out is not None:
            with writing(out):
                out.write_text(text, encoding="utf-8")
        if as_json:
            heads = {o.name: list(o.head.globs) if o.head else [] for o in known.outputs}
            types = {o.name: o.type for o in known.outputs}
            groups = [group.name for group in known.found.groups]
            show({"spec": text, "outputs": types, "heads": heads, "groups": groups})
        else:
            show(text if out is None else f"wrote {out}; next: pagcp validate {out}")
