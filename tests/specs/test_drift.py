"""What drifted, in words; and as annotations for GitHub."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pagcp_cli.annotations import annotation
from specs.diagnostics import Diagnostic
from specs.drift import drift
from specs.plan import Costs, Cut, Plan

CUTS = (Cut("a", 8, (1, 2)), Cut("b", 4, (0,)))
PLAN = Plan(CUTS, (), Costs(100, 10, 40), Costs(60, 7, 28), (), {"a.weight": {0: ((0, 0), (3, 7))}}, "sha256:1", ("x",))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"fingerprint": "sha256:2"}, ["it is of the network sha256:1, the spec's is sha256:2"]),
        ({"cuts": (Cut("a", 8, (1, 3)), CUTS[1])}, ["group `a`: 8 -> 6, now other channels go"]),
        ({"cuts": (Cut("a", 8, (1,)), CUTS[1])}, ["group `a`: 8 -> 6, now 8 -> 7"]),
        (
            {"cuts": (CUTS[0], Cut("c", 3, (0,)))},
            ["group `b`: was 4 -> 3, now whole", "group `c`: was whole, now 3 -> 2"],
        ),
        (
            {"after": Costs(1000, 7, 28)},
            ["costs after: 60 MACs, 7 parameters; now 1,000, 7"],
        ),
        ({"amended": ()}, ["`x` is no longer more than a slice"]),
        ({"amended": ("x", "y")}, ["`y` is now more than a slice"]),
        ({"tensors": {}}, ["tensors differ"]),
    ],
)
def test_each_difference_is_told(change: dict[str, object], told: list[str]) -> None:
    found = drift(PLAN, replace(PLAN, **change), "plan.json")  # type: ignore[arg-type]
    assert [d.message for d in found] == told
    assert all((d.code, d.where) == ("L809", "plan.json") for d in found)
    if found:
        assert found[-1].hint == "if that is right, keep the new plan: `pagcp plan` writes it"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            Diagnostic("L809", "100% off", "a,b.json", "look"),
            "::error file=a%2Cb.json,title=pagcp L809::100%25 off. look",
        ),
        (
            Diagnostic("S104", "one\ntwo", "net.yaml:3:5"),
            "::error file=net.yaml,line=3,col=5,title=pagcp S104::one%0Atwo",
        ),
        (Diagnostic("G301", "no", "", severity="warning"), "::warning title=pagcp G301::no"),
        (Diagnostic("G301", "no", "net.py:7"), "::error file=net.py,line=7,title=pagcp G301::no"),
    ],
)
def test_annotations(found: Diagnostic, line: str) -> None:
    assert annotation(found) == line
