"""Each search from the spec to the report, on the digits example with few images and a coarse grid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pagcp_cli import compile_spec, load_spec
from pagcp_cli.render import compile_report
from tests.running import EXAMPLES

QUICK = ("data.calibration.samples=80", "budgets={macs: 80%}", "export=[]")
GRID = "grid: [0.25, 0.5, 0.75]"


@pytest.mark.parametrize(
    ("options", "search"),
    [
        ("{}", "marginal"),
        ("{confidence: 0.999, swaps: 2}", "marginal"),
        ("{search: certified, tolerance: 0.1}", "certified"),
        ("{search: certified, total: 4, confidence: 0.99}", "certified"),
        ("{search: published, total: 4, tolerances: {denoise: 0.1}}", "published"),
        ("{search: published, total: 6, quirks: true, top: 0.8}", "published"),
    ],
)
def test_a_search_meets_the_budget_and_prints_a_row_per_group(
    options: str, search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    given = f"{{{GRID}}}" if options == "{}" else f"{options[:-1]}, {GRID}}}"
    spec = load_spec(EXAMPLES / "digits.yaml", [*QUICK, f"passes=[pagcp: {given}]"])
    result = compile_spec(spec, tmp_path / "out")
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert evidence["costs"]["after"]["macs"] <= evidence["limits"]["macs"]
    (record,) = evidence["searches"]
    assert record["search"] == search
    assert record["evaluations"] > 0
    assert record["path"]
    lines = compile_report(result).splitlines()
    assert max(map(len, lines[:12])) <= 80
    assert lines[0].split() == ["group", "width", "by", "task", "rise", "margin", "s"]
    assert [line.split()[0] for line in lines[1:9]] == [d["group"] for d in evidence["decisions"]]
    assert lines[9].startswith(f"{search}: ")


def test_rounds_of_cutting_and_training(tmp_path: Path) -> None:
    rounds = "[pagcp: {search: certified, tolerance: 0.05, total: 1.3}, finetune: {epochs: 1}]"
    given = f"passes=[repeat: {{until: budgets, times: 3, passes: {rounds}}}]"
    result = compile_spec(load_spec(EXAMPLES / "digits.yaml", [*QUICK, given]), tmp_path / "out")
    assert 1 <= len(result.searches) <= 3
    assert result.plan.after.macs < result.plan.before.macs
