"""The table of decisions: one row per group, within the terminal's width."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pagcp_cli.render import decisions_report
from specs.plan import Decision
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
