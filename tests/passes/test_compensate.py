"""compensate: mean in the passes: the oracle measures what is emitted, no task is made worse, rounds go on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pagcp_ir.cost import costs
from pagcp_ir.reads import Observer, reads
from pagcp_ir.rewrite import materialise
from passes.base import run_passes
from passes.compensate import compensator, everywhere, helpful
from passes.finetune import Finetune
from passes.journal import Journal, read_journal
from passes.oracle import RealOracle
from passes.pagcp import NetworkSpace, Pagcp
from passes.uniform import Uniform
from specs.diagnostics import DataError
from specs.options import FinetuneOptions, PagcpOptions, UniformOptions
from specs.spec import Budgets

MEAN = {"compensate": "mean"}
PAGCP = {"tolerance": 0.2, "total": 1.8, "grid": (0.25, 0.5, 0.75)}


def half(case):
    keep = case.state.channels.all
    for name in ("stem", "inner"):
        keep[case.state.channels.group(name).units[::2]] = False
    return keep


def plain_losses(case, program):
    """Of a network as it stands, by an oracle that cuts nothing."""
    oracle = RealOracle(case.ctx.tasks, case.ctx.data["calibration"].cached())
    channels = case.state.channels
    return oracle.losses(program, replace(channels, bindings=(), values={}, layers=()), channels.all)


@pytest.mark.parametrize("step", [Uniform(UniformOptions(ratio=0.5, **MEAN)), Pagcp(PagcpOptions(**PAGCP, **MEAN))])
def test_the_oracle_measures_what_is_emitted(case, tmp_path, step):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        ctx = replace(case.ctx, journal=journal)
        after = run_passes([step], case.state, ctx)
    finish = helpful(compensator(step.options, case.state, ctx), case.state, after.keep, case.ctx)
    measured = ctx.oracle.losses(case.state.program, case.state.channels, after.keep, finish)
    assert measured == pytest.approx(plain_losses(case, after.program), rel=1e-6)
    cut = ctx.oracle.losses(case.state.program, case.state.channels, after.keep)
    assert all(measured[task] <= cut[task] for task in cut)
    assert measured != cut
    (told,) = [r["layers"] for r in read_journal(path) if r["kind"] == "compensated"]
    assert set(told) <= {"inner", "outer", "label", "map"}
    assert told


def test_the_search_decides_on_compensated_losses(case):
    space = NetworkSpace(case.state, case.ctx, PagcpOptions(**MEAN))
    plain = NetworkSpace(case.state, case.ctx, PagcpOptions())
    keep = half(case)
    finish = compensator(PagcpOptions(**MEAN), case.state, case.ctx)
    cut = materialise(case.state.program, case.state.channels, keep)
    assert space.losses(keep) == pytest.approx(plain_losses(case, finish(cut, keep)), rel=1e-6)
    assert space.losses(keep) != plain.losses(keep)
    assert space.losses(space.start) == plain.losses(plain.start)
    used = case.ctx.oracle.usage
    assert finish is compensator(UniformOptions(**MEAN), case.state, case.ctx)
    assert case.ctx.oracle.usage == used, "one pass for the means, one decision on what helps"


def test_the_emitted_network_is_the_original_with_means_where_it_was_cut(case):
    """The heads have no padding; the losses of a cut in front of them alone are those of the replaced network."""
    keep = case.state.channels.all
    keep[case.state.channels.group("stem").units[:4]] = False
    state, program = case.state, case.state.program
    found = [r for r in reads(program, state.channels) if r.layer.name in ("label", "map", "inner")]
    finish = everywhere(state, case.ctx)
    heads = finish.without(*(f for f in finish.found if f.name == "inner"))
    emitted = heads(materialise(program, state.channels, keep), keep)

    def see(read, value):
        gone = torch.from_numpy(~keep[read.units]).view(-1, *(1,) * (-1 - read.axis))
        mean = heads.average[read.node].to(value) if read.layer.name != "inner" else torch.zeros(len(read.units))
        return torch.where(gone, mean.view(gone.shape), value)

    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected, got = Observer(program.module, found, see)(x), emitted.module(x)
    for name in ("label", "map"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)


def test_what_harms_a_task_is_dropped_layer_by_layer(case, tmp_path):
    keep = half(case)
    finish = everywhere(case.state, case.ctx)
    assert helpful(finish, case.state, keep, case.ctx) is finish
    (head,) = [f for f in finish.found if f.name == "map"]
    # means that are far off, for one head
    wrong = {node: mean + 30 * (node == head.reads[0].node) for node, mean in finish.average.items()}
    finish = replace(finish, average=wrong, _known={})
    with Journal(tmp_path / "journal.jsonl") as journal:
        kept = helpful(finish, case.state, keep, replace(case.ctx, journal=journal))
    assert {f.name for f in kept.found} == {f.name for f in finish.found} - {"map"}
    (told,) = read_journal(tmp_path / "journal.jsonl")
    assert told["message"].startswith("`map` is not compensated: with it a task's loss is ")
    state, oracle = case.state, case.ctx.oracle
    now, plain = (oracle.losses(state.program, state.channels, keep, f) for f in (kept, None))
    assert all(now[task] <= plain[task] for task in plain)


def test_a_loss_that_is_no_number_any_more_is_harm(case):
    keep = half(case)
    finish = everywhere(case.state, case.ctx)
    finish = replace(finish, average={node: mean * np.inf for node, mean in finish.average.items()}, _known={})
    assert helpful(finish, case.state, keep, case.ctx).active(keep) == ()


def test_rounds_go_on_from_the_compensated_network(case):
    steps = [
        Uniform(UniformOptions(ratio=0.25, **MEAN)),
        Finetune(FinetuneOptions(epochs=1)),
        Uniform(UniformOptions(ratio=0.5, criterion="task_taylor", **MEAN)),
    ]
    after = run_passes(steps, case.state, case.ctx)
    assert after.plan.after == costs(after.here)
    assert after.plan.after.params == sum(p.numel() for p in after.program.module.parameters())


def test_budgets_on_parameters_let_no_layer_get_a_bias(case):
    net = case.state
    grown = everywhere(net, case.ctx)
    tight = replace(case.ctx, budgets=Budgets.model_validate({"params": "50%"}), oracle=case.ctx.oracle)
    tight = replace(tight, oracle=RealOracle(case.ctx.tasks, case.ctx.data["calibration"].cached()))
    kept = everywhere(net, tight)
    assert {f.place for f in grown.found} == {f.place for f in kept.found} == {"bias", "running_mean"}


def test_it_needs_the_tasks_and_their_data(case):
    step = Uniform(UniformOptions(ratio=0.5, **MEAN))
    assert UniformOptions.needs_tasks(MEAN)
    assert not UniformOptions.needs_tasks({})
    with pytest.raises(DataError) as caught:
        run_passes([step], case.state, replace(case.ctx, oracle=None, data=None))
    assert "compensate: mean measures the tasks' losses" in str(caught.value)


class Table:
    """An oracle: compensation halves the loss of one task and adds half to the other's."""

    def losses(self, program, channels, keep, finish=None):
        return {"label": 2.0, "map": 2.0} if finish is None else {"label": 1.0, "map": 3.0}


def test_what_others_lose_by_a_drop_is_told(case, tmp_path):
    keep = half(case)
    finish = everywhere(case.state, case.ctx)
    finish = finish.without(*(f for f in finish.found if f.name != "map"))
    with Journal(tmp_path / "journal.jsonl") as journal:
        ctx = replace(case.ctx, oracle=Table(), journal=journal)
        assert helpful(finish, case.state, keep, ctx).active(keep) == ()
    assert [r["message"] for r in read_journal(tmp_path / "journal.jsonl")] == [
        "`map` is not compensated: with it a task's loss is 50.00% above that without any",
        "the loss of 'label' is 2 for that, 1 with all compensated",
    ]
