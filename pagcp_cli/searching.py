"""What the commands that search share: the spec is read, then the target looked at, and only then torch imported."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from pagcp_cli.command import show, speaks, told

if TYPE_CHECKING:
    from pagcp_cli.result import CompileResult

__all__ = ["going_on", "searched"]


def searched(
    driver: Callable[[], Callable[..., CompileResult]],
    spec: Path,
    target: Path,
    overrides: list[str] | None,
    force: bool,
    resume: bool,
    as_json: bool,
) -> NoReturn:
    """Run what `driver` imports on SPEC into `target`, show its result, and leave with its exit code."""
    with told(as_json, lambda: going_on(target)):
        from specs.spec import load_spec

        read = load_spec(spec, overrides or ())
        from pagcp_cli.folder import check_target
        from pagcp_cli.live import live_progress
        from pagcp_cli.render import compile_report

        if speaks():
            check_target(target, force, resume)  # before torch is imported and anything is computed
        run = driver()
        with live_progress() if speaks() else nullcontext() as progress:
            result = run(read, target, force=force, resume=resume, progress=progress)
        show(result.to_dict() if as_json else compile_report(result))
        code = result.exit_code
    raise typer.Exit(code)


def going_on(target: Path) -> str:
    """How to go on with what was interrupted, if it left anything."""
    from pagcp_cli.folder import unfinished

    if not unfinished(target):
        return ""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return f"  what was found so far is kept; to go on: {shlex.join(['pagcp', *words, '--resume'])}\n"
