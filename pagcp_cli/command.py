"""What every command shares: options that several take, the result on stdout, messages on stderr, exit codes.

Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
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
from typing import Annotated, Any

import typer

from specs.diagnostics import PagcpError, SpecError

__all__ = ["Inputs", "Json", "Overrides", "SpecFile", "show", "speaks", "told", "wrapped"]

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="the YAML spec", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override a key of the spec, as in budgets.macs=50%"),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="SHAPE", help="of module:callable, for each input: 1x3x224x224, or 1x16:int64"),
]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout")]


def wrapped(line: str) -> str:
    """The line, indented, as lines of the terminal's width."""
    width = shutil.get_terminal_size((80, 24)).columns
    return textwrap.fill(line, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def show(result: Any) -> None:
    """The result on stdout: text as it is, anything else as JSON."""
    text = result if isinstance(result, str) else json.dumps(result, indent=2)
    if speaks():
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()


@contextmanager
def told(as_json: bool, left: Callable[[], str] = str, failing: int | None = None) -> Iterator[None]:
    """Turn what goes wrong inside into messages on stderr and an exit code; with --json into JSON on stdout too.

    `left`: says what a command that failed left behind, "" for nothing; `failing`: the exit code of expected
    failures, where it is not their own.
    """
    with _several() as sharing:
        try:
            with sharing:
                yield
        except PagcpError as error:
            if as_json:
                show({"ok": False, "diagnostics": [d.to_dict() for d in error.diagnostics]})
            # what is wrong with the command or the spec has its own hint
            _tell(error.render(excerpt=True) + "\n" + ("" if isinstance(error, SpecError) else left()))
            raise typer.Exit(error.exit_code if failing is None else failing) from None
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


def speaks() -> bool:
    """Whether it is for this process to tell people: there may be several."""
    if "passes.processes" not in sys.modules:
        return True
    from passes.processes import speaks

    return speaks()


def _tell(message: str) -> None:
    """A message on stderr."""
    if speaks():
        sys.stderr.write(message)
        sys.stderr.flush()


def _log() -> str:
    """The traceback in a file of its own; its path."""
    with tempfile.NamedTemporaryFile("w", prefix="pagcp-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(f"pagcp {version('pagcp')}, python {sys.version}\n{' '.join(sys.argv)}\n\n")
        traceback.print_exc(file=file)
    return file.name
