"""What to try when a guarantee was missed: which task is short, whom the cuts cost most, and what leaves it more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pagcp_cli.numbers import percent

if TYPE_CHECKING:
    from pagcp_cli.result import CompileResult

__all__ = ["advice"]


def advice(result: CompileResult) -> str:
    """One line; "" where every guarantee is met."""
    lacking = [verdict.task for verdict in result.verdicts if not verdict.met]
    if not lacking:
        return ""
    cut = [d for d in result.decisions if d.kept < d.width]
    deciding = Counter(task for d in cut if (task := d.stopped_by or d.priced_by))
    told = f"hint: {', '.join(lacking)} {'falls' if len(lacking) == 1 else 'fall'} short"
    if deciding:
        task, groups = deciding.most_common(1)[0]
        told += f"; what was cut cost {task} most, in {groups} of {len(cut)} groups"
    return f"{told}; try {_list(_remedies(result))}"


def _remedies(result: CompileResult) -> list[str]:
    shares = [f"{name} above {percent(limit, _before(result, name))}" for name, limit in result.limits.items()]
    found = [f"a larger budget ({', '.join(shares)})"] if shares else ["a smaller total or ratio"]
    found.append("finetune with more epochs" if _trained(result) else "a finetune pass")
    if result.back_off is None:
        found.append("on_miss: back_off, which gives cuts back until all hold")
    return found


def _before(result: CompileResult, name: str) -> int:
    found: int = getattr(result.plan.before, name)
    return found


def _trained(result: CompileResult) -> bool:
    return any(verdict.pruned != verdict.recovered for verdict in result.verdicts)


def _list(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " or " + parts[-1]
