"""What becomes of a promise that the budgets leave no room for: told and marked, or kept by giving cuts back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pagcp_cli import CompileResult, compile_spec, load_spec
from pagcp_cli.advice import advice
from pagcp_cli.render import compile_report
from specs.diagnostics import PassError
from tests.faults import COMMON
from tests.running import EXAMPLES

TIGHT = (
    *COMMON,
    "budgets={macs: 20%}",
    "passes=[{pagcp: {swaps: 0}}, {finetune: {epochs: 2, lr: 0.002}}]",
)


def compiled(out: Path, *overrides: str) -> CompileResult:
    sys.modules.pop("digits", None)
    return compile_spec(load_spec(EXAMPLES / "digits.yaml", (*TIGHT, *overrides)), out)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    return compiled(tmp_path_factory.mktemp("failed") / "out")


@pytest.fixture(scope="module")
def backed(tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    return compiled(tmp_path_factory.mktemp("backed") / "out", "on_miss=back_off")


def test_a_missed_guarantee_is_marked_everywhere(failed: CompileResult) -> None:
    assert failed.exit_code == 4
    missed = [verdict for verdict in failed.verdicts if not verdict.met]
    assert missed
    told = [f"{v.task}: {v.metric} {v.recovered:.6g} on test, allowed {v.allowed:.6g}" for v in missed]
    assert list(failed.missed) == told
    assert all(f"\nMISSED: {line}\n" in (failed.out / "model.py").read_text() for line in told)
    assert json.loads((failed.out / "evidence.json").read_text())["missed"] == told
    assert f"MISSED: {told[0]}" in compile_report(failed).replace("\n", " ")
    assert failed.to_dict()["ok"] is False
    assert failed.back_off is None


def test_a_missed_guarantee_says_what_to_try(failed: CompileResult) -> None:
    lacking = [verdict.task for verdict in failed.verdicts if not verdict.met]
    told = advice(failed)
    assert told.startswith(
        f"hint: {', '.join(lacking)} fall{'s' if len(lacking) == 1 else ''} short; what was cut cost "
    )
    assert told.endswith(
        "; try a larger budget (macs above 20.0%), finetune with more epochs or on_miss: back_off, which gives cuts "
        "back until all hold"
    )
    assert told in compile_report(failed).replace("\n", " ")


def test_evidence_holds_one_row_per_task(failed: CompileResult) -> None:
    rows = json.loads((failed.out / "evidence.json").read_text())["verdicts"]
    assert [row["task"] for row in rows] == ["digit", "denoise"]
    for row in rows:
        assert {"dense", "pruned", "recovered", "allowed", "margin", "met", "split", "interval"} <= set(row)
        assert row["interval"]["low"] <= row["dense"] - row["recovered"] <= row["interval"]["high"]
        assert (row["interval"]["resamples"], row["interval"]["of"], row["split"]) == (1000, "samples", "test")
        assert row["margin"] == pytest.approx(row["recovered"] - row["allowed"])


def test_backing_off_ends_with_every_guarantee_met(failed: CompileResult, backed: CompileResult) -> None:
    assert [verdict.met for verdict in backed.verdicts] == [True, True]
    found = backed.back_off
    assert found is not None
    assert found.given
    assert found.attempts[0].macs == failed.plan.after.macs
    assert found.attempts[0].missed
    assert found.attempts[-1].macs == backed.plan.after.macs > failed.plan.after.macs
    assert backed.exit_code == 4  # the budget is missed, and that is told
    assert [line.partition(":")[0] for line in backed.missed] == ["budget macs"]


def test_what_was_given_back_is_told(backed: CompileResult, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backed.back_off is not None
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = compile_report(backed).splitlines()
        assert max(map(len, lines)) <= columns
        rows = lines[next(n for n, line in enumerate(lines) if line.startswith("given back")) + 1 :]
        for each, line in zip(backed.back_off.given, rows, strict=False):
            row = line.split()
            assert row[:5] == [each.group, str(each.before), "->", str(each.after), each.task]
        assert "hint: what was given back for the guarantees is why a budget is missed" in lines
    evidence = json.loads((backed.out / "evidence.json").read_text())["back_off"]
    assert [row["group"] for row in evidence["given"]] == [each.group for each in backed.back_off.given]
    assert evidence["confidence"] == 0.8


def test_a_tolerance_under_which_nothing_may_be_cut(tmp_path: Path) -> None:
    search = "passes=[{pagcp: {search: published, tolerance: 0.001, total: 1.01, grid: [0.9], stop: tolerance}}]"
    with pytest.raises(PassError) as caught:
        compiled(tmp_path / "out", search, "budgets={}")
    assert caught.value.exit_code == 1
    first, *groups = caught.value.diagnostics
    assert (first.code, first.message) == ("P406", "pagcp cut nothing")
    assert len(groups) == 8
    for diagnostic in groups:
        assert "rose by" in diagnostic.message
        assert diagnostic.where.startswith("digits.py:")
    assert list(tmp_path.iterdir()) == []


def test_on_validation_without_a_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code = (EXAMPLES / "digits.py").read_text()
    code += '\n\ndef untested():\n    return {k: v for k, v in datasets(copies=1).items() if k != "test"}\n'
    (tmp_path / "untested.py").write_text(code)
    for file in EXAMPLES.glob("digits.[sy]*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    own = ("model.factory=untested:build", "data.factory=untested:untested", "budgets={}", "export=[]")
    spec = load_spec(tmp_path / "digits.yaml", (*own, "passes=[{uniform: {ratio: 0.1}}]"))
    result = compile_spec(spec, tmp_path / "out")
    assert {verdict.split for verdict in result.verdicts} == {"validation"}
    told = compile_report(result)
    assert "there is no test split: this is validation, on which was chosen what to keep\n" in told
