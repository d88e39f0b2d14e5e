"""replay: a plan and its amended tensors give the cut network again, bit by bit; anything else is refused in words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph
from pagcp_ir.compensate import compensated, described, folds
from pagcp_ir.cost import costs
from pagcp_ir.planning import fingerprint, make_plan
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.reads import reads
from pagcp_ir.replay import amendments, replay
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from specs.diagnostics import PlanError
from specs.plan import Plan


@dataclass(frozen=True)
class Case:
    """A network, its cut and compensated self, and the plan between them."""

    program: Program
    channels: ChannelGraph
    plan: Plan
    made: Program
    amended: dict[str, Tensor]


@pytest.fixture(scope="module")
def case() -> Case:
    """Compensated everywhere: in a bias, in a running mean, and in a bias that the layer did not have."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    )
    program = trace(net, [TensorSpec((1, 1, 4, 4))])
    channels = analyse(program)
    keep = channels.all
    for group in channels.groups[:3]:
        keep[group.units[1:3]] = False
    cut = materialise(program, channels, keep)
    found = folds(program, reads(program, channels))
    lacking = {fold.tensor: torch.linspace(1, 2, len(fold.outputs), dtype=torch.float64) for fold in found}
    made = compensated(cut, found, keep, lacking)
    amended = amendments(cut, made)
    plan = make_plan(program, channels, keep)
    after = costs(described(made, channels.restrict(keep)))
    return Case(program, channels, replace(plan, after=after, amended=tuple(sorted(amended))), made, amended)


def test_the_same_network_to_the_bit(case: Case) -> None:
    assert case.plan.amended == ("3.running_mean", "5.bias", "7.bias")
    again, found = replay(case.program, case.channels, case.plan, case.amended)
    assert found.status == "exact"
    assert fingerprint(again) == fingerprint(case.made)
    assert amendments(case.made, again) == {}
    assert amendments(again, case.program).keys() >= {"0.weight", "2.weight"}
    assert Plan.from_json(case.plan.to_json()) == case.plan


def test_one_weight_of_another_checkpoint_is_refused_by_fingerprint(case: Case) -> None:
    other = replace(case.program, module=case.program.copy())
    with torch.no_grad():
        other.tensors()["2.weight"][0, 0] += 1e-6
    with pytest.raises(PlanError) as caught:
        replay(other, case.channels, case.plan, case.amended, "plan.json")
    assert str(caught.value) == (
        "plan.json  error[L804]: the plan was made for another network: its fingerprint is "
        f"{case.plan.fingerprint}, this one's is {fingerprint(other)}\n"
        "  hint: a weight or the code differs; `apply_plan` of the Python API cuts a model of yours by any plan"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"tensors": {"0.weight": {0: ((0, 0),)}}},
            "error[L806]: the plan keeps other indices of `0.bias` than its cuts ask for",
        ),
        (
            {"amended": ()},
            "error[L807]: the tensors beside the plan are not those that it names: `3.running_mean` is not named",
        ),
        (
            {"amended": ("3.running_mean", "5.bias", "7.bias", "x")},
            "error[L807]: the tensors beside the plan are not those that it names: `x` is not there",
        ),
        ({"layers": ()}, "error[L808]: layers is not what the cuts of the plan come to: `0`"),
    ],
)
def test_an_edited_plan_is_refused(case: Case, change: dict[str, object], told: str) -> None:
    plan = replace(case.plan, **change)  # type: ignore[arg-type]
    with pytest.raises(PlanError) as caught:
        replay(case.program, case.channels, plan, case.amended)
    assert str(caught.value) == told


def test_costs_that_are_not_those_of_the_cuts_are_refused(case: Case) -> None:
    plan = replace(case.plan, after=replace(case.plan.after, macs=1))
    with pytest.raises(PlanError) as caught:
        replay(case.program, case.channels, plan, case.amended)
    assert str(caught.value) == (
        "error[L808]: costs.after is not what the cuts of the plan come to: "
        f"{plan.after} is said, {case.plan.after} found"
    )


def test_a_cut_of_what_is_pinned_is_refused(case: Case) -> None:
    head = case.channels.groups[-1]
    cut = replace(case.plan.cuts[0], group=head.name, width=head.units.size, removed=(0,))
    with pytest.raises(PlanError) as caught:
        replay(case.program, case.channels, replace(case.plan, cuts=(cut,)), case.amended)
    assert str(caught.value) == "error[L805]: the plan cuts what this network has pinned, or all of an axis"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("7.bias", torch.zeros(3), "`7.bias` is float32 [3] beside the plan, float32 [2] in the network"),
        ("9.bias", torch.zeros(3), "`9.bias` is beside the plan, and the network has no place for it"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(case: Case, name: str, value: Tensor, told: str) -> None:
    amended = {**case.amended, name: value}
    plan = replace(case.plan, amended=tuple(sorted(amended)))
    with pytest.raises(PlanError) as caught:
        replay(case.program, case.channels, plan, amended)
    assert str(caught.value) == f"error[L807]: {told}"
