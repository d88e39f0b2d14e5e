"""The command line: each command says what it takes and hands over; nothing here imports torch.

Exit codes (DESIGN section 5): 0 met; 1 expected failure, nothing written; 2 bad usage or spec; 3 a bug;
4 written, but a guarantee or a budget was missed; 130 interrupted. stdout is the result, stderr everything else.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from specs.diagnostics import PagcpError, SpecError

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

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="the YAML spec", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override a key of the spec, as in budgets.macs=50%"),
]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout")]


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
    as_json: Json = False,
) -> None:
    """Prune the network of SPEC, prove it, write it to OUT."""
    target = out or Path("out") / spec.stem
    with _told(as_json, lambda: _going_on(target)):
        from specs.spec import load_spec

        read = load_spec(spec, overrides or ())
        from pagcp_cli.folder import check_target
        from pagcp_cli.live import live_progress
        from pagcp_cli.render import compile_report

        if _speaks():
            check_target(target, force, resume)  # before torch is imported and anything is computed
        from pagcp_cli.driver import compile_spec

        with live_progress() if _speaks() else nullcontext() as progress:
            result = compile_spec(read, target, force=force, resume=resume, progress=progress)
        _result(result.to_dict() if as_json else compile_report(result))
        code = result.exit_code
    raise typer.Exit(code)


@app.command()
def validate(spec: SpecFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check SPEC and say in words what it asks for."""
    with _told(as_json):
        from specs.describe import describe
        from specs.spec import load_spec

        read = load_spec(spec, overrides or ())
        words = describe(read)
        lines = [f"{spec} is valid", *(_wrapped(line) for line in words)]
        _result({"ok": True, "understood": words} if as_json else "\n".join(lines))


@app.command()
def inspect(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC", help="the YAML spec, or module:callable that returns a network", show_default=False
        ),
    ],
    overrides: Overrides = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="SHAPE", help="of module:callable, for each input: 1x3x224x224, or 1x16:int64"),
    ] = None,
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
    with _told(as_json):
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
            _result({"graph": drawn} if as_json else drawn)
        else:
            _result(found.to_dict() if as_json else inspection_report(found))


@app.command("diff")
def diff_command(
    before: Annotated[Path, typer.Argument(metavar="A", help="plan.json, artifact folder or .pt2")],
    after: Annotated[
        Path | None, typer.Argument(metavar="B", help="the same; without it, what the plan A changes")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare networks: widths, MACs, parameters per layer."""
    with _told(as_json):
        from pagcp_cli.render import diff_report
        from pagcp_cli.summaries import diff

        found = diff(before, after)
        _result(found.to_dict() if as_json else diff_report(found))


@app.command()
def schema(as_json: Annotated[bool, typer.Option("--json", help="the same: a schema is JSON")] = False) -> None:
    """Print the JSON Schema of specs, for editors that complete YAML."""
    with _told(as_json):
        from importlib.resources import files

        sys.stdout.write(files("specs").joinpath("spec.schema.json").read_text(encoding="utf-8"))


def _wrapped(line: str) -> str:
    width = shutil.get_terminal_size((80, 24)).columns
    return textwrap.fill(line, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def _result(result: Any) -> None:
    """The result on stdout: text as it is, anything else as JSON."""
    text = result if isinstance(result, str) else json.dumps(result, indent=2)
    if _speaks():
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()


def _going_on(target: Path) -> str:
    """How to go on with what was interrupted, if it left anything."""
    from pagcp_cli.folder import unfinished

    if not unfinished(target):
        return ""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return f"  what was found so far is kept; to go on: {shlex.join(['pagcp', *words, '--resume'])}\n"


@contextmanager
def _told(as_json: bool, left: Callable[[], str] = str) -> Iterator[None]:
    """Turn what goes wrong inside into messages on stderr and an exit code; with --json into JSON on stdout too.

    `left`: says what a command that failed left behind, "" for nothing.
    """
    with _several() as sharing:
        try:
            with sharing:
                yield
        except PagcpError as error:
            if as_json:
                _result({"ok": False, "diagnostics": [d.to_dict() for d in error.diagnostics]})
            # what is wrong with the command or the spec has its own hint
            _tell(error.render(excerpt=True) + "\n" + ("" if isinstance(error, SpecError) else left()))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _tell(f"interrupted; nothing was written\n{left()}")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise  # the reader of stdout went away: typer ends quietly
        except Exception as error:  # noqa: BLE001 - the last line of defence: a bug, told as one
            _tell(f"pagcp has a bug: {type(error).__name__}: {error}\n  log: {_log()}\n{left()}")
            raise typer.Exit(3) from None


@contextmanager
def _several() -> Iterator[AbstractContextManager[None]]:
    """As one of several processes of a launch: with the others, until all have told what they had to tell."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield nullcontext()
        return
    from passes.processes import joined, shared_failures

    try:
        with joined():
            yield shared_failures()
    finally:  # all is done: a launcher that ends what is left of the others need not end this one
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _speaks() -> bool:
    """Whether it is for this process to tell people: there may be several."""
    if "passes.processes" not in sys.modules:
        return True
    from passes.processes import speaks

    return speaks()


def _tell(message: str) -> None:
    """A message on stderr."""
    if _speaks():
        sys.stderr.write(message)
        sys.stderr.flush()


def _log() -> str:
    """The traceback in a file of its own; its path."""
    with tempfile.NamedTemporaryFile("w", prefix="pagcp-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(f"pagcp {version('pagcp')}, python {sys.version}\n{' '.join(sys.argv)}\n\n")
        traceback.print_exc(file=file)
    return file.name


def main() -> None:
    """The console script."""
    # a polite kill cleans up as Ctrl-C does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # threads that wait by spinning make torch several times slower wherever cores are shared; read when torch loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="pagcp")
