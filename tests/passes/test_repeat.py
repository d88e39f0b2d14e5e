"""Rounds: over the original widths, until the budgets are met or nothing is left to cut."""

from dataclasses import replace

import numpy as np
import pytest

from passes.base import flat, meets, run_passes
from passes.repeat import Repeat
from specs.diagnostics import PassError
from specs.options import RepeatOptions
from specs.spec import Budgets

GRID = [k / 12 for k in range(1, 10)]
PAGCP = {"search": "published", "tolerance": 0.25, "total": 1.5, "grid": GRID}


def repeat(*passes, **given):
    return Repeat(RepeatOptions.model_validate({"passes": list(passes), **given}))


def test_ratios_of_a_later_round_are_over_the_original_width(case):
    """Half and half again is half, not three quarters; the second round goes on where the first one stopped."""
    once = run_passes([repeat({"uniform": {"ratio": 0.5}}, times=1)], case.state, case.ctx)
    twice = run_passes([repeat({"uniform": {"ratio": 0.5}}, times=2)], case.state, case.ctx)
    assert twice.plan == once.plan
    assert len(twice.decisions) == 2 * len(once.decisions)


def test_rounds_go_deeper_since_each_has_a_base_of_its_own(case):
    ctx = replace(case.ctx, budgets=Budgets.model_validate({"macs": "40%"}))
    one = run_passes([repeat({"pagcp": PAGCP}, times=1)], case.state, ctx)
    many = run_passes([repeat({"pagcp": PAGCP}, until="budgets", times=20)], case.state, ctx)
    assert many.plan.after.macs < one.plan.after.macs
    assert bool((many.keep <= one.keep).all())
    assert 1 < len(many.searches) <= 20
    for decision in many.decisions:  # whatever the round, a step of the grid over the original width
        cut = decision.width - decision.kept
        assert cut in {int(ratio * decision.width + 1e-9) for ratio in (0, *GRID)}


def test_until_budgets_ends_with_the_round_that_meets_them(case):
    ctx = replace(case.ctx, budgets=Budgets.model_validate({"macs": "80%"}))
    given = {"search": "certified", "tolerance": 0.3, "total": 1.8, "grid": [k / 12 for k in range(1, 12)]}
    state = run_passes([repeat({"pagcp": given}, until="budgets")], case.state, ctx)
    assert meets(state.plan.after, ctx.budgets.limits(state.plan.before))
    assert len(state.searches) == 1


def test_a_round_that_cuts_nothing_is_the_last(case):
    """On a network that is not trained in between uniform finds nothing more to cut."""
    ctx = replace(case.ctx, budgets=Budgets.model_validate({"macs": "30%"}))
    state = run_passes([repeat({"uniform": {"ratio": 0.25}}, until="budgets")], case.state, ctx)
    assert len(state.decisions) == 2 * 2
    assert state.plan.after.macs > ctx.budgets.limits(state.plan.before)["macs"]


def test_a_first_round_that_cuts_nothing_is_refused(case):
    with pytest.raises(PassError) as caught:
        run_passes([repeat({"pagcp": {**PAGCP, "tolerance": 1e-9, "total": 1.1}}, times=3)], case.state, case.ctx)
    assert {d.code for d in caught.value.diagnostics} == {"P406"}


def test_budgets_out_of_reach_of_all_rounds_are_refused_before_any(case):
    ctx = replace(case.ctx, budgets=Budgets.model_validate({"macs": "5%"}))
    with pytest.raises(PassError) as caught:
        run_passes([repeat({"pagcp": PAGCP}, until="budgets")], case.state, ctx)
    assert caught.value.diagnostics[0].code == "P401"
    assert case.ctx.oracle.usage.evaluations == 0


def test_cut_and_train_in_turn(case):
    steps = [{"uniform": {"ratio": 0.25}}, {"finetune": {"epochs": 1}}]
    step = repeat(*steps, times=2)
    assert [inner.name for inner in flat([step])] == ["uniform", "finetune"]
    state = run_passes([step], case.state, case.ctx)
    before = case.state.program.tensors()["label.weight"].detach().numpy()
    kept = state.keep[case.state.channels.group("stem").units]
    assert not np.array_equal(state.program.tensors()["label.weight"].detach().numpy(), before[:, kept])
