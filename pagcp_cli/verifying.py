"""verify: every figure of a result is derived anew from its other files; with the spec, also from the original network.

First the bytes: a file that is not as it was written is named, and nothing is read from a folder that has one. Then
what the files say of each other. What rests on the data (losses, metrics, verdicts' values) is not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from pagcp_cli.contents import Contents, contradiction, read_contents, verdict_of
from pagcp_cli.exports import exports_report
from pagcp_cli.folder import REPORT
from pagcp_cli.network import open_network
from pagcp_cli.numbers import count, percent, value
from pagcp_cli.report.writing import report_differs
from pagcp_cli.result import missed
from pagcp_cli.sums import check_sums, unlisted
from pagcp_ir.replay import replay
from specs.diagnostics import Diagnostic, EmitError
from specs.latency import LatencyFound
from specs.spec import Spec

__all__ = ["verify_folder"]


def verify_folder(out: str | Path, spec: Spec | None = None) -> dict[str, str]:
    """What was found to hold, by topic. `spec`: its network is cut by the plan, and the figures are compared.

    Runs the folder's model.py. Raises EmitError with E610 for each file that is not as it was written, or E611 for each
    that contradicts another; PlanError for a plan that is none, or of another network than the spec's.
    """
    folder = Path(out)
    if damaged := check_sums(folder):
        raise EmitError(damaged)
    found = {"files": _files(folder)}
    held = read_contents(folder)
    problems: list[Diagnostic] = []
    for topic, check in _CHECKS.items():
        told, wrong = check(held)
        problems += wrong
        if told and not wrong:
            found[topic] = told
    if problems:
        raise EmitError(dict.fromkeys(problems))
    if spec is not None:
        found["original"] = _original(held, spec)
    return found


def _files(folder: Path) -> str:
    more = unlisted(folder)
    return "every file is as it was written" + (f"; not of the result: {', '.join(more)}" if more else "")


def _evidence(held: Contents) -> tuple[str, list[Diagnostic]]:
    """Costs, widths, limits and misses follow from the plan and the lock."""
    wrong = [contradiction(held.folder, "evidence.json", told) for told in _of_evidence(held)]
    plan = held.plan
    kept = f"{percent(plan.after.macs, plan.before.macs)} of {count(plan.before.macs)} MACs"
    return f"{kept}; {len(held.evidence['missed'])} promises missed", wrong


def _of_evidence(held: Contents) -> Iterator[str]:
    plan, evidence = held.plan, held.evidence
    if evidence["costs"] != {"before": asdict(plan.before), "after": asdict(plan.after)}:
        yield "has other costs than plan.json"
    kept = {cut.group: cut.kept for cut in plan.cuts}
    last = {row["group"]: row for row in evidence.get("decisions", ())}
    for group, row in last.items():
        if row["kept"] != kept.get(group, row["width"]):
            yield f"keeps {row['kept']} channels of `{group}`, plan.json {kept.get(group, row['width'])}"
    limits = evidence["limits"] if held.spec is None else held.spec.budgets.limits(plan.before)
    if evidence["limits"] != limits:
        yield "has other limits than the budgets of spec.lock.yaml come to"
    try:
        verdicts = tuple(verdict_of(row) for row in evidence["verdicts"])
        measured = evidence.get("latency")
        latency = None if measured is None else LatencyFound.read(measured)
        lines = list(missed(verdicts, plan.after, limits, latency))
    except (TypeError, ValueError, KeyError, AttributeError):
        yield "has verdicts, or a latency, that are none"
        return
    if evidence["missed"] != lines:
        yield "lists other misses than its verdicts and the limits come to"
    if latency is not None and latency.to_dict() != measured:
        yield "says otherwise of a latency's budget than its figures come to"
    proof = evidence.get("verification", {})
    if proof.get("status") != "exact" or not proof.get("error", 1.0) <= proof.get("tolerance", 0.0):
        yield "holds no proof that the cuts are exact"


def _plan(held: Contents) -> tuple[str, list[Diagnostic]]:
    """The layers' costs add up, and every cut changes a tensor."""
    plan, wrong = held.plan, []
    for side in ("before", "after"):
        total = sum(getattr(layer, side).macs for layer in plan.layers)
        if total != getattr(plan, side).macs:
            wrong.append(f"says {getattr(plan, side).macs} MACs {side}, its layers come to {total}")
    if bool(plan.cuts) != bool(plan.tensors):
        wrong.append("has cuts without tensors, or tensors without cuts")
    beside = f"; {len(plan.amended)} tensors beside it" if plan.amended else ""
    told = f"{sum(len(cut.removed) for cut in plan.cuts)} channels of {len(plan.cuts)} groups go{beside}"
    return told, [contradiction(held.folder, "plan.json", each) for each in wrong]


def _journal(held: Contents) -> tuple[str, list[Diagnostic]]:
    """It is the journal of this network, and ends with this plan's costs."""
    if held.journal is None:
        return "", []
    plan, wrong = held.plan, []
    start = next((r for r in held.journal if r["kind"] == "start"), {})
    if start.get("network") != plan.fingerprint:
        wrong.append("is of another network than plan.json")
    ends = [record for record in held.journal if record["kind"] == "pass_end"]
    if ends and held.evidence.get("back_off") is None:
        last = ends[-1].get("macs"), ends[-1].get("params")
        if last != (plan.after.macs, plan.after.params):
            wrong.append("ends with other costs than plan.json")
    told = f"{len(held.journal)} records"
    return told, [contradiction(held.folder, "journal.jsonl", each) for each in wrong]


def _report(held: Contents) -> tuple[str, list[Diagnostic]]:
    """Its text is what the other files come to."""
    if not (held.folder / REPORT).exists():
        return "", []
    told = report_differs(held.folder)
    return "it says what the other files come to", [contradiction(held.folder, REPORT, told)] if told else []


def _original(held: Contents, spec: Spec) -> str:
    """The plan on the spec's network."""
    program, channels = open_network(spec)
    where = str(held.folder / "plan.json")
    _, found = replay(program, channels, held.plan, held.amended, where)
    return f"the plan fits it; the cuts equal the masked original within {value(found.error)}"


_CHECKS: dict[str, Callable[[Contents], tuple[str, list[Diagnostic]]]] = {
    "plan": _plan,
    "evidence": _evidence,
    "journal": _journal,
    "exports": exports_report,
    "report": _report,
}
