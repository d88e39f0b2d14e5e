"""`pagcp bench`: what artifacts take, as measured. Torch is imported where a file needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pagcp_cli.command import Json, show, told

__all__ = ["bench_command"]

_KINDS = "output folder, model.py in one, .onnx or .pt2"


def bench_command(
    first: Annotated[Path, typer.Argument(metavar="A", help=_KINDS, show_default=False)],
    second: Annotated[
        Path | None, typer.Argument(metavar="B", help="the same; measured in turns with A", show_default=False)
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, metavar="N", help="samples in a run, may be repeated; default 1"),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, metavar="N", help="threads of the backend, may be repeated; default 1"),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=SHAPE", help="where a file leaves sizes open: image=1x3x224x224"),
    ] = None,
    layers: Annotated[bool, typer.Option(help="time each layer of ONNX alone, too")] = True,
    as_json: Json = False,
) -> None:
    """Measure latency, throughput and memory of one or two networks, in onnxruntime and in torch."""
    with told(as_json):
        from pagcp_cli.benched import bench_report
        from pagcp_cli.benching import bench, parse_shapes

        artifacts = [first] if second is None else [first, second]
        found = bench(artifacts, batch or (), threads or (1,), parse_shapes(inputs or ()), layers)
        show(found.to_dict() if as_json else bench_report(found))
