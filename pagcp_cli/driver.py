"""compile and plan: the pipeline from a spec to an artifact folder, top to bottom.

open the network -> run the passes -> prove the cuts -> measure on test -> export -> write, whole or not at all
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pagcp_cli.artifact import Made, write_artifact
from pagcp_cli.network import open_network, user_code
from pagcp_cli.report.writing import reported
from pagcp_cli.result import CompileResult, Exported
from pagcp_cli.resuming import Run, opened
from pagcp_ir.planning import make_plan
from pagcp_ir.program import Program
from pagcp_ir.replay import amendments, require_same_network
from pagcp_ir.rewrite import materialise
from pagcp_ir.verify import Verification, require_exact, verify
from passes import make_pass
from passes.answers import Answers
from passes.back_off import back_off
from passes.base import Context, Pass, Progress, State, flat, run_passes
from passes.data import Splits, load_splits
from passes.feeding import require_fit
from passes.journal import Journal
from passes.measure import verdicts
from passes.oracle import RealOracle
from passes.processes import broadcast_object, is_main, joined, shared_failures
from passes.resume import Checkpoints
from passes.tasks import Task, build_tasks
from specs.back_off import BackOff
from specs.diagnostics import SpecError
from specs.exporting import ExportItem
from specs.latency import LatencyFound
from specs.plan import Plan, Verdict
from specs.spec import Spec

__all__ = ["CompileResult", "Exported", "compile_spec", "plan_again", "plan_spec"]


def compile_spec(
    spec: Spec, out: str | Path, *, force: bool = False, resume: bool = False, progress: Progress | None = None
) -> CompileResult:
    """Prune the network of `spec`, prove it, measure it, and write it to the folder `out`.

    `force` lets an earlier result in `out` be replaced; `resume` goes on with a run to `out` that was interrupted, if
    there is one. `progress` is told of every journal record.
    Raises a PagcpError, and writes nothing, when anything fails; a missed guarantee or budget is no failure: it is
    written, and listed in `missed`. All processes of a launch call this, and get the same; the first one writes.
    """
    passes = _passes(spec)
    with joined(), shared_failures(), opened(Path(out), force, resume) as run:
        ran = _ran(spec, run, passes, progress)
        return _written(spec, Path(out), run, ran, spec.export, lambda: _judged(spec, ran), reported)


def plan_spec(
    spec: Spec, out: str | Path, *, force: bool = False, resume: bool = False, progress: Progress | None = None
) -> CompileResult:
    """As `compile_spec`, but only as far as the plan goes, which is the same: no export, no look at test.

    What recovers after the last cut is left out, but for a spec that gives cuts back where recovery falls short.
    """
    with joined(), shared_failures(), opened(Path(out), force, resume) as run:
        ran = _ran(spec, run, _until_planned(spec), progress)
        return _written(spec, Path(out), run, ran, (), tuple)


def plan_again(spec: Spec, plan: Plan, where: str, progress: Progress | None = None) -> Plan:
    """The plan that `spec` gives now; writes nothing. PlanError L804, before any search, where `plan` is another
    network's."""
    with joined(), shared_failures():
        run = Run(None, Journal(), Checkpoints())
        ran = _ran(spec, run, _until_planned(spec), progress, lambda found: require_same_network(found, plan, where))
        return broadcast_object("the plan", lambda: _made(ran).plan)


@dataclass(frozen=True, eq=False)
class _Ran:
    """Passes that ran from `start` to `end`, and what was given back then."""

    passes: tuple[Pass, ...]
    start: State
    end: State
    backed: BackOff | None
    tasks: tuple[Task, ...]
    data: Splits | None
    latency: LatencyFound | None


def _passes(spec: Spec) -> tuple[Pass, ...]:
    return tuple(make_pass(step.name, step.options) for step in spec.passes)


def _until_planned(spec: Spec) -> tuple[Pass, ...]:
    """The passes that the plan depends on."""
    passes = _passes(spec)
    if spec.on_miss == "back_off":
        return passes
    last = max((n for n, step in enumerate(passes) if any(p.kind == "selector" for p in flat([step]))), default=-1)
    return passes[: last + 1]


def _ran(
    spec: Spec,
    run: Run,
    passes: tuple[Pass, ...],
    progress: Progress | None,
    check: Callable[[str], None] = lambda fingerprint: None,
) -> _Ran:
    """`check` is given the network's fingerprint before anything is searched."""
    device = _device(spec)
    program, channels = open_network(spec)
    start = State(program, channels, make_plan(program, channels, channels.all))
    check(start.plan.fingerprint)
    tasks = build_tasks(spec)
    data = load_splits(spec, device) if spec.data is not None else None
    ctx = _context(spec, run, start, tasks, data, progress)
    ctx = replace(ctx, latency=ctx.timing(start))
    end, backed = run_passes(passes, start, ctx), None
    if spec.on_miss == "back_off":
        end, backed = back_off(passes, start, end, ctx)
    found = None if spec.budgets.latency is None else ctx.timing(start).measured(end.keep)
    return _Ran(passes, start, end, backed, tasks, data, found)


def _written(
    spec: Spec,
    out: Path,
    run: Run,
    ran: _Ran,
    formats: Sequence[ExportItem],
    judge: Callable[[], tuple[Verdict, ...]],
    last: Callable[[CompileResult, Path], CompileResult] = lambda result, folder: result,
) -> CompileResult:
    def finished() -> CompileResult:
        assert run.stage is not None  # this is the process that writes
        folder = run.stage.result
        return last(write_artifact(spec, out, folder, _made(ran, judge), formats), folder)

    return broadcast_object("the result", finished)


def _made(ran: _Ran, judge: Callable[[], tuple[Verdict, ...]] = tuple) -> Made:
    """The end of the run, proven, judged, and with what its plan has to say of tensors that are no slices."""
    start, end = ran.start, ran.end
    cut, verification = _proven(start, end, ran.passes)
    amended = amendments(cut, end.pruned or end.uncut or start.program)
    plan = replace(end.plan, amended=tuple(sorted(amended)))
    what = end.decisions, end.searches, judge(), ran.backed, ran.latency
    return Made(end.program, plan, amended, verification, *what)


def _device(spec: Spec) -> torch.device:
    """The CPU: cutting and verifying on an accelerator has not been proven to work, so it is not offered."""
    if spec.device not in ("auto", "cpu"):
        message = f"device: {spec.device} is not available in this version"
        raise SpecError.one("S108", message, spec.where("device"), "write auto or cpu")
    return torch.device("cpu")


def _context(
    spec: Spec, run: Run, start: State, tasks: tuple[Task, ...], data: Splits | None, progress: Progress | None
) -> Context:
    """What passes may touch. SpecError S120 when the run to go on with is another one."""
    wanted = bool(tasks) and data is not None and "calibration" in data
    batches = data["calibration"].cached() if wanted and data is not None else ()
    if data is not None:  # not only when hours have passed
        _judgeable(tasks, data)
        if spec.on_miss == "back_off":
            data["validation"], data["calibration"]
        require_fit(start.program, data, batches)
    resumed = run.begin(spec, start.program, batches, data)
    ctx = Context(
        budgets=spec.budgets,
        seed=spec.seed,
        device=_device(spec),
        oracle=RealOracle(tasks, batches, Answers(run.journal)) if wanted else None,
        data=data,
        tasks=tasks,
        journal=run.journal,
        code=user_code(spec),
        checkpoints=run.checkpoints,
    )
    if progress is None or not is_main():
        return ctx
    if resumed:
        progress("resumed", {"answers": run.journal.known})
    return replace(ctx, progress=progress)


def _proven(start: State, end: State, passes: tuple[Pass, ...]) -> tuple[Program, Verification]:
    """All rounds at once, from the original to the final plan: the plain slices, and how exact they are."""
    changed = any(p.kind == "transformer" or getattr(p.options, "compensate", "none") != "none" for p in flat(passes))
    cut = materialise(start.program, start.channels, end.keep) if changed else end.program
    found = verify(start.program, start.channels, end.keep, cut)
    require_exact(found)
    return cut, found


def _judged(spec: Spec, ran: _Ran) -> tuple[Verdict, ...]:
    """The one look at test, or at validation where there is no test split."""
    data, tasks, end = ran.data, ran.tasks, ran.end
    if data is None or not tasks or not _judgeable(tasks, data):
        return ()
    split, name = data.judge
    return verdicts(tasks, ran.start.program, end.pruned or end.program, end.program, split, name, spec.seed)


def _judgeable(tasks: tuple[Task, ...], data: Splits) -> bool:
    """Whether there is a split to judge on. DataError D709 when there is none, and something is guaranteed."""
    if any(task.guarantee is not None for task in tasks):
        return bool(data.judge)
    return "test" in data or "validation" in data
