"""compensate: mean in the passes: the oracle measures what is emitted, no task is made worse, rounds go on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from pagcp_cli.driver import compile_spec
from pagcp_ir.cost import costs
from pagcp_ir.program import TensorSpec
from pagcp_ir.reads import Observer, reads
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from passes.base import Context, run_passes
from passes.compensate import compensator, everywhere, helpful
from passes.data import Batch
from passes.finetune import Finetune
from passes.journal import Journal, read_journal
from passes.oracle import RealOracle
from passes.pagcp import NetworkSpace, Pagcp
from passes.tasks import Task
from passes.uniform import Uniform
from specs.diagnostics import DataError
from specs.options import FinetuneOptions, PagcpOptions, UniformOptions
from specs.spec import Budgets, load_spec
from tests.passes.conftest import make_state
from tests.running import EXAMPLES

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
    space = NetworkSpace(case.state, case.ctx, PagcpOptions(**MEAN, criterion="l1"))
    plain = NetworkSpace(case.state, case.ctx, PagcpOptions(compensate="none", criterion="l1"))
    keep = half(case)
    finish = compensator(PagcpOptions(**MEAN, criterion="l1"), case.state, case.ctx)
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


def test_budgets_on_parameters_let_no_layer_get_a_bias():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2, bias=False)).eval()
    state = make_state(trace(net, [TensorSpec((1, 3))]))
    task = Task("t", loss=lambda output, target: output.square().mean())

    def places(**budgets):
        oracle = RealOracle([task], [Batch((torch.randn(4, 3),), None, 4)])
        ctx = Context(Budgets.model_validate(budgets), oracle=oracle)
        return [fold.place for fold in everywhere(state, ctx).found]

    assert places() == places(macs="50%") == ["new bias"]
    assert places(params="50%") == places(bytes="50%") == []


def test_it_needs_the_tasks_and_their_data(case):
    step = Uniform(UniformOptions(ratio=0.5, **MEAN))
    assert UniformOptions.needs_tasks(MEAN)
    assert not UniformOptions.needs_tasks({})
    with pytest.raises(DataError) as caught:
        run_passes([step], case.state, replace(case.ctx, oracle=None, data=None))
    assert "compensate: mean measures the tasks' losses" in str(caught.value)


class Table:
    """An oracle of losses by the names of the layers that are compensated; otherwise, and uncut, they are 100."""

    def __init__(self, found, table, uncut=None):
        self.uncut = uncut or {"label": 100.0, "map": 100.0}
        self.names = {fold.tensor: fold.name.partition(".")[0] for fold in found}
        self.table = table

    def losses(self, program, channels, keep, finish=None):
        if keep.all():
            return self.uncut
        active = [] if finish is None else finish.active(keep)
        asked = "".join(sorted(self.names[fold.tensor][0] for fold in active))
        return self.table.get(asked, {"label": 100.0, "map": 100.0})


def test_a_drop_that_makes_it_worse_is_not_made(case):
    keep = half(case)
    finish = everywhere(case.state, case.ctx)
    finish = finish.without(*(f for f in finish.found if f.name == "inner"))
    table = {"lmo": 10.0, "mo": 2.0, "lm": 5.0, "lo": 9.0, "m": 6.0, "o": 0.0}  # label, map, outer: rise of one loss
    losses = {asked: {"label": 100 + rise, "map": 50.0} for asked, rise in table.items()}
    ctx = replace(case.ctx, oracle=Table(finish.found, losses | {"": {"label": 100.0, "map": 100.0}}))
    assert [f.name for f in helpful(finish, case.state, keep, ctx).active(keep)] == ["outer"]


@pytest.mark.parametrize(
    ("compensated", "plain", "dropped", "told"),
    [
        (
            (1.0, 3.0),
            (1.5, 2.0),
            True,
            "`map` is not compensated: with it a task's loss is 50.00% above that without any",
        ),
        ((1.0, 2.01), (5.0, 2.0), False, "compensated, a task's loss is 0.50% above that without; less of it costs"),
        ((2.0, 1.1), (2.001, 1.0), False, "compensated, a task's loss is 10.00% above that without; less of it costs"),
        ((1.0, 2.001), (5.0, 2.0), False, None),
    ],
    ids=["it pays", "another task loses more", "the worst task loses", "next to nothing"],
)
def test_a_layer_is_dropped_where_that_costs_other_tasks_less(case, tmp_path, compensated, plain, dropped, told):
    """The losses of the uncut network are 1."""
    keep = half(case)
    finish = everywhere(case.state, case.ctx)
    finish = finish.without(*(f for f in finish.found if f.name != "map"))
    with Journal(tmp_path / "journal.jsonl") as journal:
        losses = {asked: {"label": each[0], "map": each[1]} for asked, each in (("m", compensated), ("", plain))}
        table = Table(finish.found, losses, uncut={"label": 1.0, "map": 1.0})
        active = helpful(finish, case.state, keep, replace(case.ctx, oracle=table, journal=journal)).active(keep)
    assert (active == ()) is dropped
    messages = [record["message"] for record in read_journal(tmp_path / "journal.jsonl")]
    assert [message[: len(told or "")] for message in messages] == ([] if told is None else [told])


def test_what_no_single_layer_mends_ends_all_of_it(case):
    keep, finish = half(case), everywhere(case.state, case.ctx)
    finish = finish.without(*(f for f in finish.found if f.name == "inner"))
    losses = {asked: {"label": 110.0, "map": 110.0} for asked in ("lmo", "lm", "lo", "mo")}
    ctx = replace(case.ctx, oracle=Table(finish.found, losses))
    assert helpful(finish, case.state, keep, ctx).active(keep) == ()


def test_digits_end_to_end(tmp_path):
    for name in ("digits.py", "digits.safetensors"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    document = yaml.safe_load((EXAMPLES / "digits.yaml").read_text())
    document |= {"budgets": {"macs": "60%"}, "export": ["python"]}
    judged = {}
    for way in ("none", "mean"):
        document["passes"] = [{"uniform": {"criterion": "task_taylor", "compensate": way}}]
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(document))
        result = compile_spec(load_spec(tmp_path / "spec.yaml"), tmp_path / way)
        judged[way] = {verdict.task: verdict.pruned for verdict in result.verdicts}
        assert result.plan.after.macs <= 0.6 * result.plan.before.macs
    plain, mean = (json.loads((tmp_path / way / "plan.json").read_text()) for way in ("none", "mean"))
    amended = mean.pop("amended")
    assert amended
    assert mean == {key: value for key, value in plain.items() if key != "amended"}
    assert judged["mean"]["digit"] > judged["none"]["digit"] + 0.02
    assert judged["mean"]["denoise"] > judged["none"]["denoise"]
