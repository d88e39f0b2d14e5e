"""The command line: each command says what it takes and hands over; nothing here imports torch.

Exit codes (DESIGN section 5): 0 met; 1 expected failure, nothing written; 2 bad usage or spec; 3 a bug;
4 written, but a guarantee or a budget was missed; 130 interrupted. stdout is the result, stderr everything else.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pagcp_cli.bench_command import bench_command
from pagcp_cli.command import Inputs, Json, Overrides, SpecFile, show, told, wrapped
from pagcp_cli.comparing import diff_command
from pagcp_cli.explaining import explain_command, passes_command
from pagcp_cli.plan_commands import apply_command, check_plan, plan_command, verify_command
from pagcp_cli.reporting import report_command
from pagcp_cli.searching import searched
from pagcp_cli.starting import init_command

if TYPE_CHECKING:
    from pagcp_cli.result import CompileResult

__all__ = ["app", "main"]

app = typer.Typer(
    name="pagcp",
    help="A compiler for channel pruning: a spec and a trained network in, a smaller network out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pagcp {version('pagcp')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """A compiler for channel pruning: a spec and a trained network in, a smaller network out."""


@app.command("compile")
def compile_command(
    spec: SpecFile,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="folder to write; default out/<spec's name>")
    ] = None,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier result in OUT")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run to OUT that was interrupted")] = False,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="PLAN", help="write nothing; exit 1 where SPEC now gives another plan"),
    ] = None,
    annotate: Annotated[bool, typer.Option("--annotate", help="with --check: print GitHub annotations")] = False,
    as_json: Json = False,
) -> None:
    """Prune the network of SPEC, prove it, write it to OUT."""
    if check is not None and (out is not None or force or resume):
        raise typer.BadParameter("writes nothing: leave out -o, --force and --resume", param_hint="--check")
    if annotate and (check is None or as_json):
        raise typer.BadParameter("belongs to --check, without --json", param_hint="--annotate")
    if check is not None:
        check_plan(spec, check, overrides, annotate, as_json)
    else:
        target = out or Path("out") / spec.stem
        searched(_driver, spec, target, overrides, force, resume, as_json)


def _driver() -> Callable[..., CompileResult]:
    from pagcp_cli.driver import compile_spec

    return compile_spec


@app.command()
def validate(spec: SpecFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check SPEC and say in words what it asks for."""
    with told(as_json):
        from specs.describe import describe
        from specs.spec import load_spec

        read = load_spec(spec, overrides or ())
        words = describe(read)
        lines = [f"{spec} is valid", *(wrapped(line) for line in words)]
        show({"ok": True, "understood": words} if as_json else "\n".join(lines))


@app.command()
def inspect(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC", help="the YAML spec, or module:callable that returns a network", show_default=False
        ),
    ],
    overrides: Overrides = None,
    inputs: Inputs = None,
    graph: Annotated[
        Literal["dot", "text"] | None,
        typer.Option("--graph", help="print the graph instead: dot for Graphviz, or text, one value a line"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="write the graph there, and print the report")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="also write the empty plan (no cuts) there")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is coupled and what is pinned, and why; of a spec or of any module:callable."""
    if out is not None and graph is None:
        raise typer.BadParameter("needs --graph, which says what to write there", param_hint="--out")
    with told(as_json):
        from pagcp_cli.folder import writing
        from pagcp_cli.subject import subject

        read = subject(spec, inputs or (), overrides or ())
        from pagcp_cli.inspected import inspection_report
        from pagcp_cli.inspection import inspect_spec

        found = inspect_spec(read)
        drawn = found.graph(graph) if graph is not None else ""
        for path, text in ((plan, found.plan.to_json()), (out, drawn)):
            if path is not None:
                with writing(path):
                    path.write_text(text, encoding="utf-8")
        if drawn and out is None:
            show({"graph": drawn} if as_json else drawn)
        else:
            show(found.to_dict() if as_json else inspection_report(found))


@app.command()
def schema(as_json: Annotated[bool, typer.Option("--json", help="the same: a schema is JSON")] = False) -> None:
    """Print the JSON Schema of specs, for editors that complete YAML."""
    with told(as_json):
        from importlib.resources import files

        sys.stdout.write(files("specs").joinpath("spec.schema.json").read_text(encoding="utf-8"))


app.command("bench")(bench_command)
app.command("diff")(diff_command)
app.command("init")(init_command)
app.command("plan")(plan_command)
app.command("apply")(apply_command)
app.command("verify")(verify_command)
app.command("report")(report_command)
app.command("passes")(passes_command)
app.command("explain")(explain_command)


def main() -> None:
    """The console script."""
    # a polite kill cleans up as Ctrl-C does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # threads that wait by spinning make torch several times slower wherever cores are shared; read when torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="pagcp")
