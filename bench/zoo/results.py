"""From what was measured to bench/results/zoo.json: one flat record per network, and the figures over all of them.

A network counts as refused when it was declined with a reason, or when less than a fifth of its MACs may be cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["RATIO", "STATUSES", "THEIRS", "record", "summary"]

Row = dict[str, Any]
STATUSES = ("exact", "refused", "wrong", "unverifiable", "failed")
THEIRS = ("equal", "not comparable", "wrong", "raised", "stopped")
RATIO = 0.5
LEAST_PRUNABLE = 0.2
DECLINED = ("TraceError", "GraphError", "PassError")
PIPELINE = ("trace", "analyse", "select", "rewrite")
REWRITING = ("analyse", "select", "rewrite")


def record(row: Row) -> Row:
    """The record of a measured row; times are processor seconds."""
    about = {key: row.get(key) for key in ("name", "library", "family", "size")}
    if "build_error" in row:
        reason = f"not built: {row['build_error']}"
        return {**about, "status": "failed", "reason": reason, "macs_kept": None, "peer": _peer({})}
    ours = row["ours"]
    status, reason = _status(ours)
    seconds = {name: round(took["cpu"], 3) for name, took in ours.get("seconds", {}).items()}
    return {
        **about,
        "route": ours.get("route", "refused"),
        "status": status,
        "reason": reason,
        "error": ours.get("error_size"),
        "notes": ours.get("notes", []),
        "macs": ours.get("macs"),
        "params": ours.get("params"),
        "prunable": ours.get("prunable"),
        "prunable_conv": ours.get("prunable_conv"),
        "attention": ours.get("attention"),
        "macs_kept": ours.get("flops_kept"),
        "params_kept": ours.get("params_kept"),
        "silent": bool(ours.get("free") and (ours.get("flops_kept") or 0) > 0.99),
        "pins": ours.get("pins", {}),
        "pinned_macs": ours.get("pinned_macs", {}),
        "seconds": seconds,
        "compile_seconds": _total(seconds, PIPELINE),
        "peak_mb": ours.get("peak_mb"),
        "peer": _peer(row.get("peer", {})),
    }


def _status(ours: Row) -> tuple[str, str]:
    error = ours.get("error")
    if error and error["type"] in DECLINED:
        return "refused", error["text"]
    if error:
        return "failed", f"{error['type']} ({error['trace']}): {error['text']}"
    if ours["prunable"] < LEAST_PRUNABLE:
        pins = "; ".join(f"{share:.0%} {reason}" for reason, share in ours["pinned_macs"].items())
        return "refused", f"{ours['prunable']:.0%} of its MACs may be cut: {pins}"
    if ours["status"] == "exact" and not ours["double"]:
        return "unverifiable", f"it computes in single precision: error {ours['error_size']:.1e}"
    return ours["status"], ours["how"]


def _peer(peer: Row) -> Row:
    seconds = {name: round(took["cpu"], 3) for name, took in peer.get("seconds", {}).items()}
    error = peer.get("error")
    if error:
        status = "stopped" if error["type"] == "Stopped" else "raised"
        why = error["text"] if status == "stopped" else f"{error['type']}: {error['text']}"
    else:
        status = {"yes": "equal", "no": "wrong"}.get(peer.get("equal", ""), peer.get("equal", "not run"))
        why = peer.get("why", "")
    both = _total(seconds, ("graph", "prune"))
    return {
        "status": status,
        "why": why,
        "macs_kept": peer.get("flops_kept"),
        "seconds": both,
        "distance": peer.get("distance"),
    }


def _total(seconds: Mapping[str, float], parts: Sequence[str]) -> float | None:
    return round(sum(seconds[p] for p in parts), 3) if all(p in seconds for p in parts) else None


def summary(records: Sequence[Row]) -> Row:
    """Counts per library, and the ratios between ours and theirs."""
    libraries = list(dict.fromkeys(r["library"] for r in records))
    cut_by_both = [r for r in records if r["peer"]["status"] == "equal" and r["macs_kept"]]
    timed = [r for r in records if r.get("compile_seconds") and r["peer"]["seconds"]]
    return {
        "libraries": {name: _counts(r for r in records if r["library"] == name) for name in libraries},
        "all": _counts(records),
        "silent": [r["name"] for r in records if r.get("silent")],
        "macs_kept_ratio": _ratios(cut_by_both, lambda r: r["macs_kept"] / r["peer"]["macs_kept"]),
        "seconds_ratio": _ratios(timed, lambda r: r["compile_seconds"] / r["peer"]["seconds"]),
        "rewriting_ratio": _ratios(timed, lambda r: sum(r["seconds"][p] for p in REWRITING) / r["peer"]["seconds"]),
    }


def _counts(records: Iterable[Row]) -> Row:
    rows = list(records)
    ours, theirs = Counter(r["status"] for r in rows), Counter(r["peer"]["status"] for r in rows)
    return {
        "networks": len(rows),
        "ours": {status: ours[status] for status in STATUSES},
        "theirs": {status: theirs[status] for status in THEIRS},
    }


def _ratios(rows: Sequence[Row], ratio: Callable[[Row], float]) -> Row:
    values = sorted(map(ratio, rows))
    if not values:
        return {"networks": 0}
    return {
        "networks": len(values),
        "median": round(median(values), 3),
        "tenth": round(values[len(values) // 10], 3),
        "ninetieth": round(values[len(values) * 9 // 10], 3),
        "largest": round(values[-1], 3),
        "above_1.1": sum(v > 1.1 for v in values),
    }
