"""What a compile gives: where it was written, what it rests on, and what of the promises was missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pagcp_ir.verify import Verification
from passes.journal import plain
from specs.back_off import BackOff
from specs.latency import LatencyFound
from specs.plan import Costs, Decision, Plan, Verdict
from specs.search import SearchRecord

__all__ = ["CompileResult", "Exported", "missed"]


@dataclass(frozen=True)
class Exported:
    """One export. `parity`: largest difference from the network in torch, over the output's scale.

    `runs`: of ONNX, the shapes that it was run on, and the difference of each; `opset`: the version of its operators.
    """

    format: str
    parity: float | None
    dynamic: tuple[str, ...]
    note: str
    runs: tuple[tuple[str, float], ...] = ()
    opset: int | None = None


@dataclass(frozen=True)
class CompileResult:
    """What was written to `out`, and what it rests on. `missed`: guarantees and budgets that were not met.

    `back_off`: what was given back, where the spec asks for that on a miss. `report`: why the report is not there that
    was to be written.
    """

    out: Path
    files: tuple[str, ...]
    plan: Plan
    decisions: tuple[Decision, ...]
    searches: tuple[SearchRecord, ...]
    verdicts: tuple[Verdict, ...]
    limits: Mapping[str, int] = field(hash=False)
    verification: Verification
    exports: tuple[Exported, ...]
    missed: tuple[str, ...]
    back_off: BackOff | None = None
    latency: LatencyFound | None = None
    report: str = ""

    @property
    def exit_code(self) -> int:
        """0 when everything was met, 4 when something was missed."""
        return 4 if self.missed else 0

    def to_dict(self) -> dict[str, Any]:
        """The data of `--json`."""
        return {"ok": not self.missed, "out": str(self.out), "files": list(self.files), **self.evidence()}

    def evidence(self) -> dict[str, Any]:
        """The data of evidence.json, in JSON's types."""
        found: dict[str, Any] = {
            "costs": {"before": asdict(self.plan.before), "after": asdict(self.plan.after)},
            "limits": dict(self.limits),
            "latency": None if self.latency is None else self.latency.to_dict(),
            "verdicts": [v.to_dict() for v in self.verdicts],
            "missed": list(self.missed),
            "back_off": None if self.back_off is None else self.back_off.to_dict(),
            "verification": asdict(self.verification),
            "exports": [asdict(e) for e in self.exports],
            "decisions": [d.to_dict() for d in self.decisions],
            "searches": [s.to_dict() for s in self.searches],
        }
        return {key: plain(value) for key, value in found.items()}


def missed(
    verdicts: tuple[Verdict, ...], after: Costs, limits: Mapping[str, int], latency: LatencyFound | None = None
) -> tuple[str, ...]:
    """One line for each guarantee and each budget that was not met."""
    lines = [_guarantee(verdict) for verdict in verdicts if not verdict.met]
    for name, limit in limits.items():
        cost = getattr(after, name)
        if cost > limit:
            lines.append(f"budget {name}: {cost:,}, at most {limit:,}")
    if latency is not None and not latency.met:
        lines.append(f"budget latency: {latency.told}")
    return tuple(lines)


def _guarantee(verdict: Verdict) -> str:
    told = f"{verdict.task}: {verdict.metric} {verdict.recovered:.6g} on {verdict.split}, allowed {verdict.allowed:.6g}"
    if verdict.confidence is None:
        return told
    why = verdict.note or f"the bound is {-(verdict.margin or 0.0):.6g} beyond it"
    return f"{told} at {verdict.confidence:.4g} confidence: {why}"
