"""The plan's canonical bytes, and a reader that refuses everything else with its place."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs.diagnostics import PlanError
from specs.plan import (
    Costs,
    Cut,
    Decision,
    Interval,
    LayerCost,
    LayerSize,
    Pin,
    Plan,
    Verdict,
    indices,
    ranges,
    read_plan,
)

PLAN = Plan(
    cuts=(Cut("stem.conv", 8, (0, 1, 2, 7)),),
    pins=(Pin("head", (0, 1), "is an output of the network", "net.py:12"),),
    before=Costs(400, 40, 160),
    after=Costs(200, 20, 80),
    layers=(LayerCost("stem.conv", "Conv2d", LayerSize(3, 8, 400, 40), LayerSize(3, 4, 200, 20)),),
    tensors={"stem.conv.weight": {0: ((3, 6),)}, "head.weight": {0: ((0, 9),), 1: ((3, 6), (11, 14))}},
    fingerprint="sha256:0123",
)
TEXT = """\
{
  "costs": {
    "after": {"bytes": 80, "macs": 200, "params": 20},
    "before": {"bytes": 160, "macs": 400, "params": 40}
  },
  "cuts": [
    {
      "group": "stem.conv",
      "removed": [[0, 2], [7, 7]],
      "width": 8
    }
  ],
  "fingerprint": "sha256:0123",
  "layers": [
    {
      "after": {"inputs": 3, "macs": 200, "outputs": 4, "params": 20},
      "before": {"inputs": 3, "macs": 400, "outputs": 8, "params": 40},
      "kind": "Conv2d",
      "name": "stem.conv"
    }
  ],
  "pins": [
    {
      "group": "head",
      "reason": "is an output of the network",
      "units": [[0, 1]],
      "where": "net.py:12"
    }
  ],
  "tensors": {
    "head.weight": {
      "0": [[0, 9]],
      "1": [[3, 6], [11, 14]]
    },
    "stem.conv.weight": {
      "0": [[3, 6]]
    }
  },
  "version": 1
}
"""


def test_the_text_is_canonical_and_reads_back() -> None:
    assert PLAN.to_json() == TEXT
    assert Plan.from_json(TEXT) == PLAN
    assert json.loads(TEXT) == PLAN.to_dict()
    assert PLAN.cuts[0].kept == 4


SETS = st.sets(st.integers(0, 40)).map(lambda found: tuple(sorted(found)))
NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
COUNTS = st.integers(0, 2**62)
COSTS = st.builds(Costs, COUNTS, COUNTS, COUNTS)
SIZES = st.builds(LayerSize, COUNTS, COUNTS, COUNTS, COUNTS)
TENSORS = st.dictionaries(NAMES, st.dictionaries(st.integers(0, 4), SETS.map(ranges), max_size=2), max_size=3)
PLANS = st.builds(
    Plan,
    cuts=st.lists(st.builds(Cut, NAMES, st.just(41), SETS), max_size=3, unique_by=lambda c: c.group).map(tuple),
    pins=st.lists(st.builds(Pin, NAMES, SETS, NAMES, NAMES), max_size=2).map(tuple),
    before=COSTS,
    after=COSTS,
    layers=st.lists(st.builds(LayerCost, NAMES, NAMES, SIZES, SIZES), max_size=2).map(tuple),
    tensors=TENSORS,
    fingerprint=NAMES,
    amended=st.sets(NAMES, max_size=3).map(lambda found: tuple(sorted(found))),
)


@settings(max_examples=50, deadline=None)
@given(PLANS)
def test_every_plan_reads_back_with_the_same_bytes(plan: Plan) -> None:
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    assert all(not isinstance(number, float) for number in _numbers(json.loads(text)))


def _numbers(value: object) -> list[object]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [] if isinstance(value, str) else [value]


@given(SETS)
def test_ranges_and_indices_are_inverse(found: tuple[int, ...]) -> None:
    kept = ranges(found)
    assert indices(kept) == found
    assert all(first > last + 1 for (_, last), (first, _) in pairwise(kept))


def test_ranges_need_ascending_indices() -> None:
    with pytest.raises(ValueError, match="indices must ascend, got 1 after 1"):
        ranges([1, 1])


REFUSED = {
    "": 'plan.json:1:1  error[L801]: the plan is not valid JSON: expecting value',
    "{": (
        "plan.json:1:2  error[L801]: the plan is not valid JSON: expecting property name enclosed in double quotes"
    ),
    "[" * 100_000: "plan.json  error[L801]: the plan is not valid JSON: nested too deeply",
    "9" * 5000: "plan.json  error[L801]: the plan is not valid JSON: a number of 5000 digits is too large",
    "NaN": "plan.json  error[L801]: the plan is not valid JSON: NaN is not a number that JSON has",
    "1.5": "plan.json  error[L801]: the plan is not valid JSON: plans hold whole numbers only, got 1.5",
    '{"a": 1, "a": 2}': (
        'plan.json  error[L801]: the plan is not valid JSON: the key "a" occurs twice in one object'
    ),
    "[]": "plan.json  error[L802]: the plan must be an object, got a list of 0",
    "{}": "plan.json  error[L802]: the plan has no key version",
    '{"version": 2}': "plan.json  error[L803]: version must be 1, got 2",
    '{"version": "1"}': 'plan.json  error[L802]: version must be a whole number, got "1"',
    '{"version": 1, "cutz": 0}': (
        'plan.json  error[L802]: the plan has an unknown key "cutz"\n  hint: did you mean cuts?'
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:12])
def test_what_is_not_a_plan_is_refused_with(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    assert str(caught.value) == REFUSED[text]


CHANGED = {
    '"width": 8->"width": 7': "cuts[0].removed[1][0] must be from 0 to 6, got 7",
    '"width": 8->"width": 0': "cuts[0].width must be from 1 to 1048576, got 0",
    '"width": 8->"width": true': "cuts[0].width must be a whole number, got true",
    "[7, 7]->[3, 7]": "cuts[0].removed[1] must start above the range before it, with a gap",
    "[7, 7]->[7, 6]": "cuts[0].removed[1] must be a range [first, last], got [7, 6]",
    "[7, 7]->[7]": "cuts[0].removed[1] must be a range [first, last], got [7]",
    "[7, 7]->7": "cuts[0].removed[1] must be a list, got 7",
    '"0": [[0, 9]]->"-1": [[0, 9]]': 'tensors["head.weight"] has the key "-1", which is not a dim',
    '"macs": 400, "params": 40}\n  }->"macs": -1, "params": 40}\n  }': (
        "costs.before.macs must be from 0 to 9223372036854775807, got -1"
    ),
    '"where": "net.py:12"->"where": null': "pins[0].where must be a string, got null",
    '"where": "net.py:12"->"where": "\\ud800"': "pins[0].where must be text, got half of a surrogate pair",
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_bad_value_is_refused_with_its_place(change: str) -> None:
    old, new = change.split("->")
    assert old in TEXT
    with pytest.raises(PlanError) as caught:
        Plan.from_json(TEXT.replace(old, new), "out/plan.json")
    assert str(caught.value) == f"out/plan.json  error[L802]: {CHANGED[change]}"


def test_a_group_is_cut_once() -> None:
    data = PLAN.to_dict()
    data["cuts"] *= 2
    with pytest.raises(PlanError, match=r'cuts has the group "stem\.conv" twice'):
        Plan.from_json(json.dumps(data))


def test_small_files_cannot_ask_for_many_indices() -> None:
    data = PLAN.to_dict()
    cut = {"width": 2**20, "removed": [[0, 2**20 - 1]]}
    data["pins"] = [{"group": "g", "units": [[0, 2**40]], "reason": "", "where": ""}]
    with pytest.raises(PlanError, match=r"pins\[0\]\.units\[0\]\[1\] must be from 0 to 1048575"):
        Plan.from_json(json.dumps(data))
    data["cuts"] = [{"group": str(i), **cut, "removed": [[0, 2**19]]} for i in range(9)]
    data["pins"] = []
    with pytest.raises(PlanError, match="asks for more indices than a plan may hold"):
        Plan.from_json(json.dumps(data))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_mutated_plan_is_read_or_refused(data: st.DataObject) -> None:
    value = copy.deepcopy(PLAN.to_dict())
    node: object = value
    while isinstance(node, (dict, list)) and node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))
        child = node[key]
        if data.draw(st.booleans()) or not isinstance(child, (dict, list)):
            node[key] = data.draw(st.sampled_from([None, True, -1, 2**70, "", "x", [], {}, [[0, 0]], {"0": []}]))
            break
        node = child
    try:
        plan = Plan.from_json(json.dumps(value))
    except PlanError as error:
        str(error).encode()
    else:
        assert Plan.from_json(plan.to_json()) == plan


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(TEXT, encoding="utf-8")
    assert read_plan("plan.json") == PLAN
    Path("bad.json").write_bytes(b"\xff")
    for name, message in (
        ("no.json", "the plan cannot be read: no such file or directory"),
        ("bad.json", "the plan is not UTF-8 text (byte 0)"),
    ):
        with pytest.raises(PlanError) as caught:
            read_plan(name)
        assert str(caught.value) == f"{name}  error[L801]: {message}"
        assert caught.value.exit_code == 1


def test_evidence_is_json() -> None:
    decision = Decision("g", 8, 4, "age", 0.5, {"age": 1.05}, 0.01, "age stopped it", 0.2)
    verdict = Verdict("age", "MeanSquaredError", 1.0, 1.3, 1.1, 1.2, 0.1, True, "test", Interval(0, 0.2, 0.95, 9, "x"))
    assert json.loads(json.dumps(decision.to_dict()))["losses"] == {"age": 1.05}
    assert math.isclose(json.loads(json.dumps(verdict.to_dict()))["allowed"], 1.2)
    assert json.loads(json.dumps(verdict.to_dict()))["interval"]["high"] == 0.2
