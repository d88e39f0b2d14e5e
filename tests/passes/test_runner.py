"""The runner: what it checks, refuses, journals."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from pagcp_ir.cost import costs
from pagcp_ir.planning import make_plan
from pagcp_ir.program import Program
from pagcp_ir.rewrite import materialise
from passes.base import ContractError, meets, run_passes
from passes.journal import Journal, read_journal
from passes.uniform import Uniform
from specs.diagnostics import GraphError, PassError, VerifyError
from specs.options import UniformOptions
from specs.spec import Budgets
from tests.passes.conftest import make_state


def uniform(**options):
    return Uniform(UniformOptions(**options))


def budgets(**given):
    return Budgets.model_validate(given)


@dataclass(frozen=True)
class Step:
    """A pass that does what the test says."""

    kind: str
    act: Any
    options: Any = None
    name = "step"

    def run(self, state, ctx):
        return self.act(state)


def cut_to(state, keep):
    return replace(state, plan=make_plan(state.program, state.channels, keep))


def half(channels):
    keep = channels.all
    keep[channels.group("inner").units[::2]] = False
    return keep


def test_a_selector_leads_to_a_cut_and_verified_program(case):
    after = run_passes([uniform(ratio=0.5)], case.state, case.ctx)
    assert [(d.group, d.width, d.kept) for d in after.decisions] == [("stem", 8, 4), ("inner", 12, 6)]
    assert after.program.tensors()["inner.weight"].shape == (6, 4, 3, 3)
    assert after.plan.after == costs(after.channels, after.keep)
    assert after.channels is case.state.channels


def test_rounds_are_over_the_original_width_and_equal_one_round(case):
    """W4: 25% and then 50% is 50%, not 62.5%; program and channels stay in step."""
    once = run_passes([uniform(ratio=0.5, criterion="tp_random")], case.state, case.ctx)
    twice = run_passes([uniform(ratio=r, criterion="tp_random") for r in (0.25, 0.5)], case.state, case.ctx)
    assert twice.plan == once.plan
    for name, tensor in once.program.tensors().items():
        np.testing.assert_array_equal(tensor.detach(), twice.program.tensors()[name].detach())


def test_budgets_out_of_reach_are_refused_before_anything_runs(case):
    """W9."""

    def never(state):
        raise AssertionError("a pass was run")

    ctx = replace(case.ctx, budgets=budgets(macs="1%", params="99%"))
    step = Step("selector", never, UniformOptions(ratio=0.5, min_channels=4))
    with pytest.raises(PassError) as caught:
        run_passes([step], case.state, ctx)
    # 4 of 8 and of 12 channels: 64 positions * 9 * (3*4 + 4*4 + 4*4) + 64 * 8 + 4 * 4 of the original's
    assert str(caught.value) == (
        "error[P401]: the budgets are out of reach: macs 1,254 (1.0%), least reachable 25,872 (20.6%)\n"
        "  hint: protect less, raise max_ratio, lower min_channels, or ask for less; "
        "`pagcp inspect` lists what is pinned"
    )
    assert case.ctx.oracle.usage.evaluations == 0


def test_budgets_within_reach_are_not_refused(case):
    ctx = replace(case.ctx, budgets=budgets(macs="21%"))
    state = run_passes([uniform(min_channels=4)], case.state, ctx)
    assert meets(state.plan.after, ctx.budgets.limits(state.plan.before))


def test_all_pinned_is_refused_with_the_reasons(case):
    """W8."""
    from pagcp_ir.analyse import analyse

    channels = analyse(case.state.program, protect=["*"])
    state = replace(case.state, channels=channels)
    with pytest.raises(GraphError) as caught:
        run_passes([uniform(ratio=0.5)], state, case.ctx)
    assert "G301" in str(caught.value)


def foreign(state) -> Program:
    return replace(state.program, module=state.program.copy())


@pytest.mark.parametrize(
    ("kind", "act", "told"),
    [
        ("selector", lambda s: replace(s, program=foreign(s)), "the selector 'step' changed the program"),
        ("selector", lambda s: cut_to(s, ~s.channels.free), "the selector 'step' made a plan that is not legal"),
        ("selector", lambda s: cut_to(s, s.channels.free), "the selector 'step' made a plan that is not legal"),
        ("transformer", lambda s: cut_to(s, half(s.channels)), "the transformer 'step' changed the plan"),
        (
            "transformer",
            lambda s: replace(s, program=materialise(s.program, s.channels, half(s.channels))),
            "the transformer 'step' changed the shape of a tensor",
        ),
    ],
)
def test_a_pass_that_breaks_its_contract_is_a_bug(case, kind, act, told):
    with pytest.raises(ContractError, match=told):
        run_passes([Step(kind, act)], case.state, case.ctx)


def test_a_selector_that_takes_cuts_back_is_a_bug(case):
    steps = [uniform(ratio=0.5), Step("selector", lambda s: cut_to(s, s.channels.all))]
    with pytest.raises(ContractError, match="took back earlier cuts"):
        run_passes(steps, case.state, case.ctx)


def test_a_program_that_does_not_equal_its_plan_is_refused(case, monkeypatch):
    """One kept index is off when the network is cut."""
    import passes.base as base

    def corrupted(program, channels, keep):
        units, wrong = channels.group("inner").units, keep.copy()
        kept, cut = units[keep[units]][0], units[~keep[units]][0]
        wrong[[kept, cut]] = False, True
        return original(program, channels, wrong)

    original = base.materialise
    monkeypatch.setattr(base, "materialise", corrupted)
    with pytest.raises(VerifyError):
        run_passes([uniform(ratio=0.5)], case.state, case.ctx)


def test_the_journal_and_the_display_hear_of_every_pass(case, tmp_path):
    heard = []
    with Journal(tmp_path / "journal.jsonl") as journal:
        ctx = replace(case.ctx, journal=journal, progress=lambda kind, fields: heard.append(kind))
        run_passes([uniform(ratio=0.25), uniform(ratio=0.5)], case.state, ctx)
    records = read_journal(tmp_path / "journal.jsonl")
    assert [r["kind"] for r in records] == ["pass_start", "pass_end"] * 2 == heard
    assert [r["number"] for r in records] == [0, 0, 1, 1]
    assert records[1]["macs"] > records[3]["macs"] > 0
    assert str(tmp_path) not in (tmp_path / "journal.jsonl").read_text()


def test_the_program_that_came_in_is_left_alone(case):
    before = {name: tensor.clone() for name, tensor in case.state.program.tensors().items()}
    text = case.state.program.text()
    run_passes([uniform(ratio=0.5)], case.state, case.ctx)
    assert case.state.program.text() == text
    for name, tensor in case.state.program.tensors().items():
        assert np.array_equal(tensor.detach(), before[name].detach())


def test_two_runs_make_the_same_bytes(case, program):
    """W13."""
    plans = [run_passes([uniform(ratio=0.4)], make_state(program), case.ctx).plan.to_json() for _ in range(2)]
    assert plans[0] == plans[1]
