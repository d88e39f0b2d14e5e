"""The tables of decisions and of verdicts: one row per group, one per task, within the terminal's width."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pagcp_cli.render import decisions_report, verdicts_report
from specs.plan import Decision, Interval, Verdict
from specs.search import SearchRecord

DECISIONS = (
    Decision(
        "backbone.stages.0.blocks.0.mlp.expand.0", 1536, 384, "segmentation", 0.75, {"a": 1.0}, 0.012, "", 12.34, 0.048
    ),
    Decision("head", 64, 64, "depth", 0.0, {}, 0.0, "", 0.2),
    Decision("neck", 128, 100, None, 0.2, {"a": 1.0}, 0.5, "", 3.0, -0.01, "depth"),
    Decision("stem", 16, 12, None, 0.25, {}, 0.0, "cut by the ratio 0.25", 0.0),
)  # fmt: skip
RECORD = SearchRecord("certified", {"depth": 1.2, "segmentation": 1.5}, 4.2, 0.9, 31, 62_000, 9.9, 2, ("neck",))


def test_one_row_per_group_at_120_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert decisions_report(DECISIONS, [RECORD]) == (
        "group                                          width  by task        rise  margin     s\n"
        "backbone.stages.0.blocks.0.mlp.expand.0  1536 -> 384  segmentation  +4.8%    1.2%  12.3\n"
        "head                                              64  depth             -       -   0.2\n"
        "neck                                      128 -> 100  (depth)       -1.0%   50.0%   3.0\n"
        "stem                                        16 -> 12  -                 -       -   0.0\n"
        "certified: 31 evaluations of 62.0k samples; the loss of segmentation rose most, to 1.5 times what it was, "
        "with total\n4.2; in 2 groups a smaller ratio was not looked at; undone on all samples: neck"
    )  # fmt: skip


def test_long_names_fold_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = decisions_report(DECISIONS, [RECORD]).splitlines()
    assert max(map(len, lines)) <= 80
    assert "1536 -> 384" in lines[1]
    assert lines[1].endswith("+4.8%    1.2%  12.3")


def test_the_closest_decision_is_told() -> None:
    told = " ".join(decisions_report(DECISIONS, [replace(RECORD, closest=0.000123)]).split())
    assert "; a loss that differs by 0.012% would turn the closest decision; undone" in told
    assert "closest" not in decisions_report(DECISIONS, [RECORD])


ROWS = (
    Verdict(
        "digit", "MulticlassAccuracy", 0.9855, 0.6564, 0.98364, 0.97545, 0.00819, True, "test",
        Interval(-0.00727, 0.00909, 0.95, 1000, "samples"),
    ),
    Verdict(
        "denoise", "PeakSignalNoiseRatio", 24.349, 16.085, 23.1, 23.849, -0.749, False, "test",
        Interval(1.1, 1.4, 0.9, 200, "batches"), 0.9,
    ),
    Verdict("depth", "loss", 0.5, 0.7, 0.6),
    Verdict("edges", "Streamed", 0.5, 0.7, 0.6, 0.7, 0.1, True, "test", None, None, "there are only 3 batches"),
)  # fmt: skip


def test_one_row_per_task_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert verdicts_report(ROWS) == (
        "task     dense pruned recovered allowed margin           drop split verdict\n"
        "digit   0.9855 0.6564    0.9836  0.9755 0.0082 -0.007..0.0091 test  met\n"
        "denoise 24.349 16.085    23.100  23.849 -0.749 1.1000..1.4000 test  MISSED\n"
        "depth   0.5000 0.7000    0.6000       -      -              - test\n"
        "edges   0.5000 0.7000    0.6000  0.7000 0.1000              - test  met\n"
        "digit: MulticlassAccuracy; denoise: PeakSignalNoiseRatio; depth: loss; edges:\n"
        "Streamed\n"
        "drop of denoise: 10.0% of 200 paired resamples of batches lie below the first\n"
        "number, 10.0% above the second\n"
        "drop of digit: 5.0% of 1000 paired resamples of samples lie below the first\n"
        "number, 5.0% above the second\n"
        "margin: of the bound, not of the measured value, for denoise (0.9)\n"
        "no interval for edges: there are only 3 batches"
    )


def test_one_row_per_task_at_120_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    first, second, *_ = verdicts_report(ROWS).splitlines()
    assert first == (
        "task     metric                 dense  pruned  recovered  allowed  margin            drop  split  verdict"
    )
    assert second == (
        "digit    MulticlassAccuracy    0.9855  0.6564     0.9836   0.9755  0.0082  -0.007..0.0091  test   met"
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_validation_is_told_and_fits(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [replace(row, split="validation", task=f"{row.task} of a long name") for row in ROWS]
    lines = verdicts_report(rows).splitlines()
    assert max(map(len, lines)) <= columns
    assert "there is no test split: this is validation, on which was chosen what to keep" in lines
    assert sum("validation  met" in line or "validation met" in line for line in lines) == 2
