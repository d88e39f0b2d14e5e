"""apply: a plan on the network that it was made for. No search, no data, no training, and the same bytes every time."""

from __future__ import annotations

from pathlib import Path

from pagcp_cli.amended import read_amended
from pagcp_cli.artifact import Made, write_artifact
from pagcp_cli.folder import staged
from pagcp_cli.network import open_network
from pagcp_cli.result import CompileResult
from pagcp_cli.sums import seal
from pagcp_ir.replay import replay
from specs.plan import read_plan
from specs.spec import Spec

__all__ = ["apply_spec", "plan_file"]


def apply_spec(plan: str | Path, spec: Spec, out: str | Path, *, force: bool = False) -> CompileResult:
    """Cut the network of `spec` by the plan in that file or folder, prove it, and write it to the folder `out`.

    What is written is the network as the last selector of the plan's compile left it, bit by bit: what `refit` or
    `finetune` made of it after that is not in a plan, and no guarantee is measured.
    Raises PlanError L80x, L804 for any other network or weights, and what opening, proving and exporting raise.
    """
    path = plan_file(Path(plan))
    read = read_plan(path)
    with staged(Path(out), force) as stage:
        program, channels = open_network(spec)
        amended = read_amended(path, read)
        cut, verification = replay(program, channels, read, amended, str(path))
        made = Made(cut, read, amended, verification)
        result = write_artifact(spec, Path(out), stage.result, made, spec.export)
        seal(stage.result)
    return result


def plan_file(path: Path) -> Path:
    """The plan's file, of a folder the one in it."""
    return path / "plan.json" if path.is_dir() else path
