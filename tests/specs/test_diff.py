"""Two networks side by side: matched by name, in a stable order, nothing lost."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from specs.diff import Diff, GraphSummary, LayerRow, diff, summary_of_plan
from specs.plan import Costs
from tests.specs.test_plan import PLAN


def network(*layers: str) -> GraphSummary:
    """Layers written as name:width."""
    rows = (LayerRow(n, "Conv2d", 3, int(w), 10 * int(w), int(w)) for n, w in (item.split(":") for item in layers))
    return GraphSummary("net", tuple(rows), Costs(1, 2, 3))


def told(found: Diff) -> list[str]:
    return [f"{row.name} {row.change}" for row in found.rows]


def test_layers_are_matched_by_name() -> None:
    found = diff(network("a:8", "b:8", "c:8", "d:8"), network("a:8", "x:1", "b:4", "d:8", "y:1"))
    assert told(found) == ["a same", "b changed", "c removed", "d same", "x added", "y added"] or told(found) == [
        "a same", "x added", "b changed", "c removed", "d same", "y added"
    ]  # fmt: skip


def test_an_added_layer_follows_its_predecessor() -> None:
    assert told(diff(network("a:8", "b:8"), network("x:1", "a:8", "y:1", "z:1", "b:8"))) == [
        "x added", "a same", "y added", "z added", "b same"
    ]  # fmt: skip


def test_calls_of_one_layer_are_matched_in_order() -> None:
    found = diff(network("a:8", "a:4"), network("a:8", "a:2", "a:1"))
    assert told(found) == ["a same", "a changed", "a added"]


def test_both_sides_of_a_plan() -> None:
    found = diff(summary_of_plan(PLAN, "before"), summary_of_plan(PLAN, "after"))
    assert told(found) == ["stem.conv changed"]
    row = found.rows[0]
    assert row.before is not None
    assert row.after is not None
    assert (row.before.outputs, row.after.outputs) == (8, 4)
    assert (found.before, found.after) == (PLAN.before, PLAN.after)
    assert json.loads(json.dumps(found.to_dict()))["rows"][0]["after"]["macs"] == 200


NETWORKS = st.lists(st.sampled_from(["a:1", "a:2", "b:1", "c:1", "d:2"]), max_size=6).map(lambda rows: network(*rows))


@given(NETWORKS, NETWORKS)
def test_every_layer_stands_in_one_row(a: GraphSummary, b: GraphSummary) -> None:
    rows = diff(a, b).rows
    assert [row.before for row in rows if row.before] == list(a.layers)
    assert sorted(str(row.after) for row in rows if row.after) == sorted(map(str, b.layers))
    assert all(row.change == "same" for row in diff(a, a).rows)
