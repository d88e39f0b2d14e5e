"""compile: the pipeline from a spec to an artifact folder, top to bottom.

open the network -> run the passes -> prove the cuts -> measure on test -> export -> write, whole or not at all
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch

from pagcp_cli.lock import lock_text
from pagcp_cli.network import open_network, user_code
from pagcp_cli.result import CompileResult, Exported, missed
from pagcp_cli.resuming import Run, opened
from pagcp_ir.emit import EXPORTERS, About
from pagcp_ir.planning import make_plan
from pagcp_ir.rewrite import materialise
from pagcp_ir.verify import Verification, require_exact, verify
from passes import make_pass
from passes.answers import Answers
from passes.back_off import back_off
from passes.base import Context, Pass, Progress, State, flat, run_passes
from passes.data import Splits, load_splits
from passes.measure import verdicts
from passes.oracle import RealOracle
from passes.processes import broadcast_object, is_main, joined, shared_failures
from passes.tasks import Task, build_tasks
from specs.back_off import BackOff
from specs.diagnostics import SpecError
from specs.plan import Verdict
from specs.spec import Spec

__all__ = ["CompileResult", "Exported", "compile_spec"]


def compile_spec(
    spec: Spec, out: str | Path, *, force: bool = False, resume: bool = False, progress: Progress | None = None
) -> CompileResult:
    """Prune the network of `spec`, prove it, measure it, and write it to the folder `out`.

    `force` lets an earlier result in `out` be replaced; `resume` goes on with a run to `out` that was interrupted, if
    there is one. `progress` is told of every journal record.
    Raises a PagcpError, and writes nothing, when anything fails; a missed guarantee or budget is no failure: it is
    written, and listed in `missed`. All processes of a launch call this, and get the same; the first one writes.
    """
    device = _device(spec)
    passes = tuple(make_pass(step.name, step.options) for step in spec.passes)
    with joined(), shared_failures(), opened(Path(out), force, resume) as run:
        program, channels = open_network(spec)
        tasks = build_tasks(spec)
        data = load_splits(spec, device) if spec.data is not None else None
        start = State(program, channels, make_plan(program, channels, channels.all))
        ctx = _context(spec, run, start, tasks, data, progress)
        end, backed = run_passes(passes, start, ctx), None
        if spec.on_miss == "back_off":
            end, backed = back_off(passes, start, end, ctx)

        def finished() -> CompileResult:
            verification = _proven(start, end, passes)
            judged = _judged(spec, start, end, tasks, data)
            return _written(spec, Path(out), run, end, verification, judged, backed)

        return broadcast_object("the result", finished)


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
    resumed = run.begin(spec, start.program, batches)
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


def _proven(start: State, end: State, passes: tuple[Pass, ...]) -> Verification:
    """All rounds at once, from the original to the final plan; the cuts alone where more was changed than cut."""
    changed = any(p.kind == "transformer" or getattr(p.options, "compensate", "none") != "none" for p in flat(passes))
    cut = materialise(start.program, start.channels, end.keep) if changed else end.program
    found = verify(start.program, start.channels, end.keep, cut)
    require_exact(found)
    return found


def _judged(spec: Spec, start: State, end: State, tasks: tuple[Task, ...], data: Splits | None) -> tuple[Verdict, ...]:
    """The one look at test, or at validation where there is no test split."""
    if data is None or not tasks or not _judgeable(tasks, data):
        return ()
    split, name = data.judge
    return verdicts(tasks, start.program, end.pruned or end.program, end.program, split, name, spec.seed)


def _judgeable(tasks: tuple[Task, ...], data: Splits) -> bool:
    """Whether there is a split to judge on. DataError D709 when there is none, and something is guaranteed."""
    if any(task.guarantee is not None for task in tasks):
        return bool(data.judge)
    return "test" in data or "validation" in data


def _written(
    spec: Spec,
    out: Path,
    run: Run,
    end: State,
    verification: Verification,
    judged: tuple[Verdict, ...],
    backed: BackOff | None,
) -> CompileResult:
    """Export and write down."""
    assert run.stage is not None  # this is the process that writes
    folder, limits = run.stage.result, spec.budgets.limits(end.plan.before)
    lacks = missed(judged, end.plan.after, limits)
    files, exports = _export(spec, end, folder, lacks)
    result = CompileResult(
        out=out,
        files=tuple(sorted({*files, "plan.json", "evidence.json", "spec.lock.yaml", "journal.jsonl"})),
        plan=end.plan,
        decisions=end.decisions,
        searches=end.searches,
        verdicts=judged,
        limits=limits,
        verification=verification,
        exports=exports,
        missed=lacks,
        back_off=backed,
    )
    texts = {
        "plan.json": result.plan.to_json(),
        "evidence.json": json.dumps(result.evidence(), indent=2, sort_keys=True, allow_nan=False) + "\n",
        "spec.lock.yaml": lock_text(spec),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return result


def _export(spec: Spec, end: State, folder: Path, lacks: tuple[str, ...]) -> tuple[list[str], tuple[Exported, ...]]:
    """Every export; each says of itself what was promised and missed."""
    digest = hashlib.sha256(end.plan.to_json().encode()).hexdigest()
    kept = f"{end.plan.after.macs:,} of {end.plan.before.macs:,} MACs"
    about = About(
        title=f"{spec.model.factory or spec.model.program}, pruned by pagcp",
        lines=(f"Keeps {kept}.", *(f"MISSED: {line}" for line in lacks), f"plan.json sha256: {digest}"),
    )
    files: list[str] = []
    exports: list[Exported] = []
    for name in spec.export:
        report = EXPORTERS[name](end.program, folder, about)
        files += report.files
        exports.append(Exported(name, report.parity, report.dynamic, report.note))
    return files, tuple(exports)
