"""What is written of a network: plan, weights, exports, evidence, lock. One writer for compile, plan and apply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from pagcp_cli.amended import plan_digest, write_amended
from pagcp_cli.folder import SUMS
from pagcp_cli.lock import lock_text
from pagcp_cli.result import CompileResult, Exported, missed
from pagcp_ir.emit import About, exporter_of
from pagcp_ir.program import Program
from pagcp_ir.verify import Verification
from specs.back_off import BackOff
from specs.exporting import ExportItem, format_of
from specs.latency import LatencyFound
from specs.plan import Decision, Plan, Verdict
from specs.search import SearchRecord
from specs.spec import Spec

__all__ = ["Made", "about", "write_artifact"]


@dataclass(frozen=True, eq=False)
class Made:
    """A network to write, and what it rests on. `amended`: of the plan, the tensors that it names."""

    program: Program
    plan: Plan
    amended: Mapping[str, Tensor]
    verification: Verification
    decisions: tuple[Decision, ...] = ()
    searches: tuple[SearchRecord, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    back_off: BackOff | None = None
    latency: LatencyFound | None = None


def write_artifact(spec: Spec, out: Path, folder: Path, made: Made, formats: Sequence[ExportItem]) -> CompileResult:
    """Write everything but the list of sums into `folder`, which becomes `out`; EmitError E6xx for an export."""
    limits = spec.budgets.limits(made.plan.before)
    lacks = missed(made.verdicts, made.plan.after, limits, made.latency)
    files, exports = _export(spec, made, folder, lacks, formats)
    files += write_amended(folder, made.plan, made.amended)
    texts = {"plan.json": made.plan.to_json(), "evidence.json": "", "spec.lock.yaml": lock_text(spec)}
    there = [path.name for path in folder.iterdir() if path.is_file()]
    result = CompileResult(
        out=out,
        files=tuple(sorted({*files, *texts, *there, SUMS})),
        plan=made.plan,
        decisions=made.decisions,
        searches=made.searches,
        verdicts=made.verdicts,
        limits=limits,
        verification=made.verification,
        exports=exports,
        missed=lacks,
        back_off=made.back_off,
        latency=made.latency,
    )
    texts["evidence.json"] = json.dumps(result.evidence(), indent=2, sort_keys=True, allow_nan=False) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return result


def about(spec: Spec, plan: Plan, lacks: Sequence[str]) -> About:
    """What each export says of itself: where it came from, what was promised and missed, and of which plan it is."""
    kept = f"{plan.after.macs:,} of {plan.before.macs:,} MACs"
    return About(
        title=f"{spec.model.factory or spec.model.program}, pruned by pagcp",
        lines=(f"Keeps {kept}.", *(f"MISSED: {line}" for line in lacks), f"plan.json sha256: {plan_digest(plan)}"),
        properties={
            "pagcp.version": version("pagcp"),
            "pagcp.plan_sha256": plan_digest(plan),
            "pagcp.source_fingerprint": plan.fingerprint,
        },
    )


def _export(
    spec: Spec, made: Made, folder: Path, lacks: tuple[str, ...], formats: Sequence[ExportItem]
) -> tuple[list[str], tuple[Exported, ...]]:
    says = about(spec, made.plan, lacks)
    files: list[str] = []
    exports: list[Exported] = []
    for item in formats:
        report = exporter_of(item)(made.program, folder, says)
        files += report.files
        about_it = (report.parity, report.dynamic, report.note, report.runs, report.opset)
        exports.append(Exported(format_of(item), *about_it))
    return files, tuple(exports)
