"""The benchmark of two processes, on few images: its rows, and the table made of them."""

from __future__ import annotations

import json
from pathlib import Path

from bench import processes


def test_stored_results_are_within_the_limit() -> None:
    stored = json.loads((processes.RESULTS / "processes.json").read_text())
    for name in ("published", "marginal"):
        row = stored["searches"][name]
        assert row["one"]["seconds"] >= 60
        assert row["share"] <= processes.LIMIT
        assert row["same plan"]


def test_one_run_inside(tmp_path: Path) -> None:
    for file in ("digits.py", "digits.safetensors"):
        (tmp_path / file).write_bytes((processes.ROOT / "specs" / "examples" / file).read_bytes())
    (tmp_path / "many.py").write_text(processes.DATA)
    options = json.dumps({**processes.SEARCHES["published"], "grid": [0.3, 0.6]})
    (tmp_path / "s.yaml").write_text(processes.SPEC.format(copies=1, options=options))
    assert processes._inside(tmp_path / "s.yaml", tmp_path / "out") == 0
    row = json.loads((tmp_path / "out.json").read_text())
    assert row["seconds"] > 0
    assert row["images"] == 300 * row["evaluations"]
    shown = processes._table({"published": {"one": row, "two": row, "share": 1.0, "cpu share": 1.0, "same plan": True}})
    assert "same " in shown
