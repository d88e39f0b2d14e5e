"""What a report shows, read from the files of a result and nothing else: equal folders give equal reports.

Drops count in the metric's own unit, and upwards is worse, whichever way the metric goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pagcp_cli.contents import Contents, contradiction, read_contents, verdict_of
from pagcp_cli.report.rows import row_of
from pagcp_cli.report.search import Round, rounds_of
from specs.diagnostics import EmitError
from specs.plan import Costs, Decision, Interval, Plan, Verdict
from specs.spec import Spec

__all__ = ["Budget", "Epoch", "Facts", "Latency", "Refit", "TaskFacts", "read_facts"]

_T = TypeVar("_T")
_COSTS = ("macs", "params", "bytes")


@dataclass(frozen=True)
class Budget:
    """One cost before and after; `asked` and `limit` only where there is a budget on it."""

    name: str
    before: int
    after: int
    limit: int | None
    asked: str

    @property
    def met(self) -> bool:
        """Whether nothing was asked, or it was kept."""
        return self.limit is None or self.after <= self.limit


@dataclass(frozen=True)
class TaskFacts:
    """A task's verdict, what was asked in words, and its drop: from dense to what was written, larger is worse.

    `says`: whether more of the metric is better, where the spec says it.
    """

    verdict: Verdict
    asked: str
    says: bool | None = None

    @property
    def higher(self) -> bool:
        """Whether more of the metric is better: where the spec leaves it open, what the verdict's figures imply."""
        v = self.verdict
        if self.says is not None:
            return self.says
        if v.interval is not None:
            inside = [sign for sign in (1, -1) if v.interval.low <= sign * (v.dense - v.recovered) <= v.interval.high]
            if len(inside) == 1:
                return inside[0] == 1
        return v.allowed is None or v.allowed <= v.dense

    def worse(self, value: float) -> float:
        """How far `value` is worse than the dense network's."""
        return self.verdict.dense - value if self.higher else value - self.verdict.dense

    @property
    def drop(self) -> float:
        """Of what was written."""
        return self.worse(self.verdict.recovered)

    @property
    def allowed(self) -> float | None:
        """The largest drop allowed; None without a guarantee."""
        return None if self.verdict.allowed is None else self.worse(self.verdict.allowed)

    @property
    def interval(self) -> Interval | None:
        """Of the drop."""
        return self.verdict.interval


@dataclass(frozen=True)
class Epoch:
    """One epoch of training: the losses on validation; `run` counts the trainings, from 0."""

    run: int
    epoch: int
    losses: Mapping[str, float]
    best: bool
    seconds: float


@dataclass(frozen=True)
class Refit:
    """What refit tried on a layer, whether it stayed, and why not."""

    layer: str
    what: str
    kept: bool
    reason: str = ""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a run before and after, medians; their ratio with its quartiles; and what was allowed."""

    backend: str
    batch: int
    threads: int
    at_most: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    met: bool


@dataclass(frozen=True, eq=False)
class Facts:
    """Everything that a page says. `locked`: the resolved spec as text; `files`: names in the folder, for loading."""

    title: str
    plan: Plan
    tasks: tuple[TaskFacts, ...]
    budgets: tuple[Budget, ...]
    missed: tuple[str, ...]
    decisions: tuple[Decision, ...]
    rounds: tuple[Round, ...]
    epochs: tuple[Epoch, ...]
    kept: tuple[int, ...]
    refits: tuple[Refit, ...]
    warnings: tuple[str, ...]
    back_off: Mapping[str, Any] | None
    verification: Mapping[str, Any]
    exports: tuple[Mapping[str, Any], ...]
    latency: Latency | None
    locked: str
    versions: Mapping[str, str]
    files: tuple[str, ...]

    @property
    def promises(self) -> int:
        """How many guarantees and budgets there are."""
        asked = [*(t.allowed for t in self.tasks), *(b.limit for b in self.budgets), self.latency]
        return sum(each is not None for each in asked)

    @property
    def in_order(self) -> tuple[str, ...]:
        """The tasks' names, as colours go by them: those of the searches, or else of the verdicts, of training."""
        named = [
            *(r.start for r in self.rounds),
            [t.verdict.task for t in self.tasks],
            *(e.losses for e in self.epochs),
        ]
        return tuple(dict.fromkeys(str(task) for names in named for task in names))


def read_facts(folder: Path) -> Facts:
    """What the folder's files say. PlanError or EmitError E611 names the one that cannot be read as what it is."""
    held = read_contents(folder)
    journal = held.journal or []
    lock = _read(folder, "spec.lock.yaml", lambda: _lock(folder))
    from_evidence = _read(folder, "evidence.json", lambda: _evidence(held))
    from_journal = _read(folder, "journal.jsonl", lambda: _journal(held.evidence, journal))
    return Facts(
        title=_title(lock[1]),
        plan=held.plan,
        locked=lock[0],
        versions={str(key): str(value) for key, value in lock[1]["versions"].items()},
        files=tuple(sorted(path.name for path in folder.iterdir() if path.name.startswith("model."))),
        **from_evidence,
        **from_journal,
    )


def _read(folder: Path, name: str, parse: Callable[[], _T]) -> _T:
    try:
        return parse()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        told = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read: {error}"
        raise EmitError([contradiction(folder, name, told)]) from error


def _lock(folder: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    text = (folder / "spec.lock.yaml").read_text(encoding="utf-8")
    return text, yaml.safe_load(text)


def _title(lock: Mapping[str, Any]) -> str:
    model = lock["spec"]["model"]
    return str(model.get("factory") or model.get("program"))


def _evidence(held: Contents) -> dict[str, Any]:
    found = held.evidence
    return {
        "tasks": tuple(_task(held.spec, verdict_of(row)) for row in found["verdicts"]),
        "budgets": tuple(_budgets(held.plan.before, held.plan.after, found["limits"], held.spec)),
        "missed": tuple(map(str, found["missed"])),
        "decisions": tuple(row_of(Decision, row) for row in found.get("decisions", ())),
        "back_off": found.get("back_off"),
        "verification": dict(found.get("verification") or {}),
        "exports": tuple(dict(row) for row in found["exports"]),
        "latency": row_of(Latency, found["latency"]) if found.get("latency") else None,
    }


def _task(spec: Spec | None, verdict: Verdict) -> TaskFacts:
    """With the guarantee as the spec has it; without, where the spec needs the environment."""
    task = next((t for t in spec.tasks if t.name == verdict.task), None) if spec is not None else None
    if task is None or (promise := task.guarantee) is None:
        return TaskFacts(verdict, "", None if task is None else task.higher_is_better)
    bounds = [("drop at most", promise.max_drop), ("at least", promise.at_least), ("at most", promise.at_most)]
    asked = next(f"{words} {bound}" for words, bound in bounds if bound is not None)
    sure = "" if promise.confidence is None else f", at {promise.confidence:g} confidence"
    by_bound = promise.at_least is not None if promise.max_drop is None else None
    return TaskFacts(verdict, asked + sure, task.higher_is_better if task.higher_is_better is not None else by_bound)


def _budgets(before: Costs, after: Costs, limits: Mapping[str, int], spec: Spec | None) -> Iterator[Budget]:
    for name in _COSTS:
        old, limit = getattr(before, name), limits.get(name)
        share = "" if limit is None else f"{limit:,}"
        asked = getattr(spec.budgets, name, None) if spec is not None else None
        words = f"keep at most {asked or share}" if limit is not None else ""
        yield Budget(name, old, getattr(after, name), limit, words)


def _journal(evidence: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kept = tuple(int(r["epoch"]) for r in records if r["kind"] == "kept")
    return {
        "rounds": rounds_of(evidence.get("searches", ()), evidence.get("decisions", ()), records),
        "epochs": tuple(_epochs(records)),
        "kept": kept,
        "refits": tuple(row_of(Refit, r) for r in records if r["kind"] == "refit"),
        "warnings": tuple(dict.fromkeys(str(r["message"]) for r in records if r["kind"] == "warning")),
    }


def _epochs(records: Sequence[Mapping[str, Any]]) -> Iterator[Epoch]:
    """A training ends where the journal says which epoch was kept."""
    run = 0
    for record in records:
        if record["kind"] == "epoch":
            losses = {str(k): float(v) for k, v in record["losses"].items()}
            seconds = float(record.get("seconds", math.nan))
            yield Epoch(run, int(record["epoch"]), losses, bool(record.get("best")), seconds)
        run += record["kind"] == "kept"
