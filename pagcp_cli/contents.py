"""The files of a result as data, for `verify`: what cannot be read as what it should be is told with its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from torch import Tensor

from pagcp_cli.amended import read_amended
from pagcp_cli.folder import JOURNAL
from passes.journal import read_journal
from specs.diagnostics import Diagnostic, EmitError, SpecError
from specs.plan import AMENDED, Interval, Plan, Verdict, read_plan
from specs.spec import Spec

__all__ = ["Contents", "contradiction", "read_contents", "verdict_of"]

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Contents:
    """What a folder holds. `spec`: of the lock, None where it needs the environment; `journal`: None without one."""

    folder: Path
    plan: Plan
    amended: Mapping[str, Tensor]
    evidence: Mapping[str, Any]
    spec: Spec | None
    journal: list[dict[str, Any]] | None


def contradiction(folder: Path, name: str, told: str) -> Diagnostic:
    """E611: what the file says is not what the others come to."""
    return Diagnostic("E611", f"{name} {told}", str(folder / name))


def read_contents(folder: Path) -> Contents:
    """All that a result of ours always holds, checked for its form. PlanError, EmitError E611 name the file."""
    plan = read_plan(folder / "plan.json")
    _read(folder, "plan.json", lambda text: _same(text, plan.to_json()))
    amended = read_amended(folder / "plan.json", plan)
    if not plan.amended and (folder / AMENDED).exists():
        raise EmitError([contradiction(folder, AMENDED, "is there, and plan.json names no tensor of it")])
    evidence = _read(folder, "evidence.json", json.loads)
    _read(folder, "evidence.json", lambda text: _keys(evidence, ("costs", "limits", "missed", "verdicts", "exports")))
    spec = _read(folder, "spec.lock.yaml", _locked)
    journal = None
    if (folder / JOURNAL).exists():
        lines = _read(folder, JOURNAL, str.splitlines)
        try:
            journal = read_journal(folder / JOURNAL)
        except SpecError as error:  # it says file and line
            number = error.diagnostics[0].where.rpartition(":")[2]
            raise EmitError([contradiction(folder, JOURNAL, f"has no record on line {number}")]) from error
        if len(journal) != len(lines):
            raise EmitError([contradiction(folder, JOURNAL, f"has no record on line {len(journal) + 1}")])
    return Contents(folder, plan, amended, evidence, spec, journal)


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """The verdict that `Verdict.to_dict` wrote; a number that JSON does not have was written as text."""
    numbers = {k: float(v) for k, v in row.items() if k in ("dense", "pruned", "recovered", "allowed", "margin") and v}
    interval = row.get("interval")
    return Verdict(**{**row, **numbers, "interval": None if interval is None else Interval(**interval)})


def _read(folder: Path, name: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse((folder / name).read_bytes().decode("utf-8"))
    except OSError as error:
        told = (error.strerror or "unreadable").lower()
        raise EmitError([contradiction(folder, name, f"cannot be read: {told}")]) from error
    except (ValueError, yaml.YAMLError, ValidationError, SpecError) as error:
        told = (str(error).strip().splitlines() or ["not what was written"])[0]
        raise EmitError([contradiction(folder, name, f"cannot be read: {told}")]) from error


def _same(text: str, written: str) -> None:
    if text != written:
        raise ValueError("not as we write it")


def _keys(value: Any, names: tuple[str, ...]) -> None:
    lacking = [name for name in names if name not in value] if isinstance(value, dict) else ["an object"]
    if lacking:
        raise ValueError(f"it lacks {lacking[0]}")


def _locked(text: str) -> Spec | None:
    lock = yaml.safe_load(text)
    _keys(lock, ("versions", "spec", "weights"))
    return None if "${env:" in text else Spec.model_validate(lock["spec"])
