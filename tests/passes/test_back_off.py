"""Backing off: what is given back, for whom, and that what holds in the end holds on validation."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy

from pagcp_ir.analyse import analyse
from pagcp_ir.cost import costs
from pagcp_ir.planning import make_plan
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes import back_off as module
from passes.back_off import back_off
from passes.base import Context, State, run_passes
from passes.criteria import scores
from passes.data import Batch
from passes.finetune import Finetune
from passes.giving_back import Giving
from passes.journal import Journal, read_journal
from passes.measure import measure
from passes.oracle import RealOracle
from passes.tasks import Task
from passes.uniform import Uniform
from specs.diagnostics import PassError
from specs.options import FinetuneOptions, UniformOptions
from specs.spec import Budgets, Guarantee


def guaranteed(ctx, label=None, map=None):
    """The case's tasks with metrics, and guarantees where given."""
    metrics = {
        "label": {"metric": lambda device: MulticlassAccuracy(4, average="micro"), "metric_name": "Accuracy"},
        "map": {"metric": lambda device: MeanSquaredError(), "metric_name": "MSE", "higher_is_better": False},
    }
    promised = {"label": label, "map": map}
    tasks = tuple(
        replace(
            task,
            **metrics[task.name],
            guarantee=None if promised[task.name] is None else Guarantee.model_validate(promised[task.name]),
        )
        for task in ctx.tasks
    )
    return replace(ctx, tasks=tasks)


def ran(case, passes, **guarantees):
    ctx = guaranteed(case.ctx, **guarantees)
    end = run_passes(passes, case.state, ctx)
    return end, ctx, *back_off(passes, case.state, end, ctx)


def test_gives_back_until_all_holds_on_validation(case):
    passes = [Uniform(UniformOptions(ratio=0.75))]
    end, ctx, after, found = ran(case, passes, map={"max_drop": "60%"})
    first, last = found.attempts[0], found.attempts[-1]
    assert first.missed == ("map",)
    assert last.missed == ()
    assert [attempt.macs for attempt in found.attempts] == sorted({attempt.macs for attempt in found.attempts})
    assert last.macs == after.plan.after.macs == costs(after.channels, after.keep).macs
    assert last.values["map"] == measure(after.program, ctx.tasks, ctx.data["validation"])["map"]
    assert bool((after.keep | ~end.keep).all())  # what was kept is kept
    given = {each.group: (each.before, each.after) for each in found.given}
    assert {each.task for each in found.given} == {"map"}
    assert sum(each.macs for each in found.given) == last.macs - first.macs
    for old, new in zip(end.decisions, after.decisions, strict=True):
        width = int(after.keep[after.channels.group(new.group).units].sum())
        assert (old.kept, new.kept) == given.get(new.group, (width, width))
        assert new.reason.startswith(old.reason)


def test_gives_back_first_what_cost_the_task_most_per_mac(case):
    passes = [Uniform(UniformOptions(ratio=0.75))]
    end, ctx, _, found = ran(case, passes, map={"max_drop": "60%"})
    program, channels, oracle = case.state.program, case.state.channels, ctx.oracle
    ranks = scores("l1", program, channels, channels.groups, ctx)
    old, macs, worth = oracle.losses(program, channels, end.keep)["map"], costs(channels, end.keep).macs, {}
    for group in channels.groups:
        gone = np.flatnonzero(~end.keep[group.units])
        if len(gone):
            best_first = gone[np.argsort(-ranks[group.name][gone], kind="stable")]
            less = end.keep.copy()
            less[group.units[best_first[: len(gone) - len(gone) // 2]]] = True
            fall = old - oracle.losses(program, channels, less)["map"]
            worth[group.name] = fall / (costs(channels, less).macs - macs)
    assert len(worth) > 1
    assert found.given[0].group == max(worth, key=lambda name: worth[name])


class Apart(nn.Module):
    """Two tasks that share nothing but the input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(2))

    def forward(self, x):
        return {"a": self.a(x), "b": self.b(x)}


def test_gives_nothing_back_that_the_task_does_not_see():
    torch.manual_seed(0)
    program, batch = trace(Apart().eval(), [TensorSpec((1, 3))]), torch.randn(32, 3)
    channels = analyse(program)
    state = State(program, channels, make_plan(program, channels, channels.all))
    tasks = [Task(name, name, name, functional.mse_loss) for name in ("a", "b")]
    oracle = RealOracle(tasks, [Batch((batch,), program.module(batch), 32)])
    ctx, passes = Context(Budgets(), oracle=oracle, tasks=tasks), [Uniform(UniformOptions(ratio=0.5))]
    end = run_passes(passes, state, ctx)
    more = Giving(passes, state, end, ctx).until(end.keep, "b", 1.0)
    assert {each.group for each in more.given} == {"b.0"}
    kept = {group.name: int(more.keep[group.units].sum()) for group in channels.groups}
    assert (kept["a.0"], kept["b.0"]) == (4, 8)


def test_recovers_from_the_network_as_it_was_cut(case):
    training = Finetune(FinetuneOptions(epochs=1, lr=0.01))
    passes = [Uniform(UniformOptions(ratio=0.75)), training]
    _, ctx, after, found = ran(case, passes, map={"max_drop": "30%"})
    assert len(found.attempts) > 1
    again = run_passes([training], replace(after, program=after.pruned), replace(ctx, original=case.state.program))
    for name, tensor in after.program.tensors().items():
        assert tensor.equal(again.program.tensors()[name])
    assert after.pruned is not after.program


def test_what_holds_is_left_alone(case):
    passes = [Uniform(UniformOptions(ratio=0.25))]
    end, _, after, found = ran(case, passes, map={"at_most": 1000.0})
    assert (after is end, found.given, len(found.attempts)) == (True, (), 1)


def test_the_widths_are_those_that_the_options_allow(case):
    passes = [Uniform(UniformOptions(ratio=0.75, round_to=4))]
    _, _, after, found = ran(case, passes, map={"max_drop": "60%"})
    assert found.given
    assert all(int(after.keep[group.units].sum()) % 4 == 0 for group in after.channels.groups if group.name != "map")


def test_nothing_left_is_told_with_every_attempt(case, tmp_path):
    passes = [Uniform(UniformOptions(ratio=0.75))]
    journal = Journal(tmp_path / "journal.jsonl")
    ctx = replace(guaranteed(case.ctx, label={"at_least": 2.0}), journal=journal)
    end = run_passes(passes, case.state, ctx)
    with pytest.raises(PassError) as caught:
        back_off(passes, case.state, end, ctx)
    first, *attempts, beyond = caught.value.diagnostics
    assert beyond.message == "the original itself misses the guarantee of 'label'"
    assert first.message == "nothing is left to give back: the guarantees do not hold on validation"
    assert [d.code for d in caught.value.diagnostics] == ["P411"] * (len(attempts) + 2)
    assert len(attempts) == len(module.SHARES) + 1
    kept = [float(d.message.split("%")[0].removeprefix("with ")) for d in attempts]
    assert all(less < more for less, more in pairwise(kept))
    assert "of the MACs kept, the bound misses 'label' by 1." in attempts[0].message
    records = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "back_off"]
    assert [record["attempt"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(record["task"] == "label" and record["margins"]["label"] < 0 for record in records)


def test_without_cuts_there_is_nothing_to_give(case):
    passes = [Finetune(FinetuneOptions(epochs=1))]
    end, _, after, found = ran(case, passes, label={"at_least": 2.0})
    assert (after is end, found.given, found.attempts[0].missed) == (True, (), ("label",))
