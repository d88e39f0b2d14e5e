"""The commands on plans: search for one, apply one, and verify what a folder says. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pagcp_cli.command import Json, Overrides, SpecFile, show, speaks, told
from pagcp_cli.searching import searched
from specs.diagnostics import PagcpError, PlanError

if TYPE_CHECKING:
    from pagcp_cli.result import CompileResult

__all__ = ["apply_command", "check_plan", "plan_command", "verify_command"]

Force = Annotated[bool, typer.Option("--force", help="replace an earlier result in OUT")]


def plan_command(
    spec: SpecFile,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="folder to write; default out/<spec's name>-plan")
    ] = None,
    overrides: Overrides = None,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run to OUT that was interrupted")] = False,
    as_json: Json = False,
) -> None:
    """Search only: write the plan that compile would write to OUT/plan.json."""
    target = out or Path("out") / f"{spec.stem}-plan"
    searched(_driver, spec, target, overrides, force, resume, as_json)


def _driver() -> Callable[..., CompileResult]:
    from pagcp_cli.driver import plan_spec

    return plan_spec


def apply_command(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="plan.json, or the folder that holds it", show_default=False)
    ],
    spec: SpecFile,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="folder to write; default out/<spec's name>")
    ] = None,
    overrides: Overrides = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Cut the network of SPEC by PLAN, without a search: the same bytes every time, or a refusal."""
    target = out or Path("out") / spec.stem
    with told(as_json):
        from specs.spec import load_spec

        read = load_spec(spec, overrides or ())
        from pagcp_cli.folder import check_target
        from pagcp_cli.render import compile_report

        check_target(target, force)  # before torch is imported and anything is computed
        from pagcp_cli.applying import apply_spec

        result = apply_spec(plan, read, target, force=force)
        show(result.to_dict() if as_json else compile_report(result))
        code = result.exit_code
    raise typer.Exit(code)


def verify_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="a folder that compile wrote", show_default=False)],
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="SPEC", help="also apply the plan to the network of this spec, and compare"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Derive what the files of OUT say from each other, running its model.py; exit 1 names the file that is wrong."""
    with told(as_json):
        from pagcp_cli.verifying import verify_folder
        from specs.spec import load_spec

        found = verify_folder(out, None if spec is None else load_spec(spec))
        show({"ok": True, "out": str(out), "checks": dict(found)} if as_json else _table(found))


def check_plan(spec: Path, plan: Path, overrides: list[str] | None, annotate: bool, as_json: bool) -> None:
    """compile --check: search again, and fail where the plan is another one now. Writes nothing."""
    with told(as_json), _annotated(annotate):
        from specs.drift import drift
        from specs.plan import read_plan
        from specs.spec import load_spec

        read = load_spec(spec, overrides or ())
        kept = read_plan(plan)
        from pagcp_cli.driver import plan_again
        from pagcp_cli.live import live_progress

        with live_progress() if speaks() else nullcontext() as progress:
            now = plan_again(read, kept, str(plan), progress)
        if differences := drift(kept, now, str(plan)):
            raise PlanError(differences)
        show({"ok": True, "plan": str(plan)} if as_json else f"{plan} is the plan of {spec}")


@contextmanager
def _annotated(wanted: bool) -> Iterator[None]:
    """Also tell what goes wrong as GitHub annotations, on stdout."""
    try:
        yield
    except PagcpError as error:
        if wanted:
            from pagcp_cli.annotations import annotation

            show("\n".join(map(annotation, error.diagnostics)))
        raise


def _table(found: dict[str, str]) -> str:
    from pagcp_cli.render import pairs, text_of

    return text_of([pairs(found.items())])
