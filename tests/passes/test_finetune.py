"""Fine-tuning, metrics on a split, verdicts."""

import math
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchmetrics import MeanSquaredError

from pagcp_ir.rewrite import materialise
from passes.base import run_passes
from passes.finetune import Finetune
from passes.journal import Journal, read_journal
from passes.measure import mean_losses, measure, worst_margin
from passes.metrics import Whole
from passes.tasks import Task, weighted
from passes.training import rate
from passes.uniform import Uniform
from specs.diagnostics import DataError, PassError
from specs.options import FinetuneOptions, UniformOptions
from specs.spec import Guarantee


def finetune(**options):
    return Finetune(FinetuneOptions(**options))


def cut(case):
    return run_passes([Uniform(UniformOptions(ratio=0.5))], case.state, case.ctx)


def validation_loss(program, case):
    return weighted(case.ctx.tasks, mean_losses(program, case.ctx.tasks, case.ctx.data["validation"]))


def tensors(program):
    return {name: t.detach().clone() for name, t in program.tensors().items()}


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd"}, {"distill": 1.0, "batch_size": 7}])
def test_training_helps_and_leaves_its_input_alone(case, options):
    state = cut(case)
    before, python, legacy, torch_state = (
        tensors(state.program),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state(),
    )
    ctx = replace(case.ctx, original=case.state.program)
    after = finetune(epochs=6, lr=0.02, **options).run(state, ctx)
    assert validation_loss(after.program, case) < 0.95 * validation_loss(state.program, case)
    assert not after.program.module.training
    assert all(p.grad is None for p in after.program.module.parameters())
    for name, tensor in tensors(state.program).items():
        assert torch.equal(tensor, before[name])
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == legacy
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_the_same_seed_gives_the_same_weights(case):
    state = cut(case)
    first, again = (tensors(finetune(epochs=2, lr=0.02).run(state, case.ctx).program) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["inner.weight"], tensors(state.program)["inner.weight"])


def test_batch_norm_statistics_are_trained_too(case):
    state = cut(case)
    after = finetune(epochs=3, lr=0.02).run(state, case.ctx).program
    assert not torch.equal(after.tensors()["norm.running_mean"], state.program.tensors()["norm.running_mean"])


def test_never_worse_on_validation_than_what_came_in(case):
    after = finetune(epochs=2, lr=3.0).run(case.state, case.ctx)
    assert validation_loss(after.program, case) <= validation_loss(case.state.program, case)


def test_a_cut_after_training_is_verified(case):
    """A pass after fine-tuning starts from the trained program; its plan is still over the original widths."""
    steps = [Uniform(UniformOptions(ratio=0.25)), finetune(epochs=1), Uniform(UniformOptions(ratio=0.5))]
    after = run_passes(steps, case.state, case.ctx)
    assert after.program.tensors()["inner.weight"].shape == (6, 4, 3, 3)
    assert after.plan.before == case.state.plan.before


def test_a_loss_that_is_not_finite_names_epoch_and_batch(case):
    calls = []

    def loss(output, target):
        calls.append(1)
        grown = output.requires_grad and sum(1 for _ in calls) > 1
        return functional.mse_loss(output, target) * (math.nan if grown else 1.0)

    ctx = replace(case.ctx, tasks=(Task("map", "map", "map", loss=loss),))
    with pytest.raises(PassError) as caught:
        finetune().run(case.state, ctx)
    assert str(caught.value) == (
        "error[P407]: the loss of 'map' is nan at epoch 1, batch 0\n  hint: lower finetune.lr, or set finetune.clip"
    )


def test_frozen_weights_are_said_to_be(case):
    program = replace(case.state.program, module=case.state.program.copy())
    program.module.requires_grad_(False)
    with pytest.raises(PassError, match="every parameter of the network is frozen"):
        finetune().run(replace(case.state, program=program), case.ctx)


def test_patience_ends_it_and_epochs_are_journaled(case, tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        ctx = replace(case.ctx, journal=journal)
        finetune(epochs=9, optimizer="sgd", lr=1e-12, patience=2).run(case.state, ctx)
    *epochs, kept = read_journal(tmp_path / "journal.jsonl")
    assert 2 <= len(epochs) < 9
    assert [e["epoch"] for e in epochs] == list(range(1, len(epochs) + 1))
    assert set(epochs[0]["losses"]) == {"label", "map"}
    assert kept == {"kind": "kept", "epoch": max((e["epoch"] for e in epochs if e["best"]), default=0)}


def test_the_rate_warms_up_and_follows_a_cosine_to_zero():
    rates = [rate(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert rates[5 + 47] == pytest.approx(0.5, abs=0.02)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert rate(0, 1) == 1.0


def guaranteed(drop):
    return Task(
        "map",
        "map",
        "map",
        loss=functional.mse_loss,
        metric_name="MeanSquaredError",
        metric=lambda device: MeanSquaredError(),
        higher_is_better=False,
        guarantee=Guarantee.model_validate({"max_drop": drop}),
    )


def test_measured_over_the_whole_split(case):
    split, task = case.ctx.data["validation"], guaranteed(0.5)
    got = measure(case.state.program, [task], split)["map"]
    expected = mean_losses(case.state.program, [task], split)["map"]
    assert got == pytest.approx(expected, rel=1e-5)


def test_margins_are_in_units_of_what_may_be_lost():
    tasks = [guaranteed(0.5), replace(guaranteed(1.0), name="free", guarantee=None)]
    dense = {"map": 2.0, "free": 1.0}
    assert worst_margin(tasks, dense, {"map": 2.4, "free": 9.0}) == pytest.approx(0.2)
    assert worst_margin(tasks, dense, {"map": 3.0}) == pytest.approx(-1.0)


def test_the_best_epoch_is_that_of_the_worst_margin(case):
    task = guaranteed(0.5)
    ctx = replace(case.ctx, tasks=(task,), original=case.state.program)
    state = cut(case)
    split = case.ctx.data["validation"]
    dense = measure(case.state.program, [task], split)
    after = finetune(epochs=3, lr=0.02).run(state, ctx)
    margins = [worst_margin([task], dense, measure(p, [task], split)) for p in (state.program, after.program)]
    assert margins[1] > margins[0]


def test_equal_margins_are_told_apart_by_the_loss(case):
    task = replace(guaranteed(0.5), metric=lambda device: Whole(lambda output, target: 1.0))
    ctx = replace(case.ctx, tasks=(task,), original=case.state.program)
    state, split = cut(case), case.ctx.data["validation"]
    after = finetune(epochs=3, lr=0.02).run(state, ctx)
    losses = [mean_losses(p, [task], split)["map"] for p in (state.program, after.program)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (Whole(lambda output, target: output), "must give one number, got shape [24, 1, 8, 8]\n  hint: give it"),
        (Whole(lambda output, target: np.ones(3)), "must give one number, got shape [3]"),
        (Whole(lambda output, target: output.sum() + 1j), "must give one number, got shape []"),
        (Whole(lambda output, target: sys.exit(0)), "raised SystemExit: 0"),
        (Whole(lambda output, target: {"a": 1}), "must give one number, got a dict"),
        (Whole(lambda output, target: 1 / 0), "raised ZeroDivisionError: division by zero"),
    ],
)
def test_metrics_that_do_not_give_a_number(case, metric, told):
    task = Task("map", "map", "map", metric_name="m", metric=lambda device: metric)
    with pytest.raises(DataError) as caught:
        measure(case.state.program, [task], case.ctx.data["validation"])
    assert told in str(caught.value)
    place, _, rest = str(caught.value).partition("error[D722]: ")
    assert rest.startswith("metric m of task 'map' ")
    assert place.startswith("tests/passes/test_finetune.py:") == ("raised" in told)


def test_distillation_alone_pulls_towards_the_original(case):
    """With the tasks' own losses weighted to nothing but imitation, the outputs come closer to the original's."""

    def nothing(output, target):
        return output.sum() * 0

    tasks = tuple(replace(task, loss=nothing) for task in case.ctx.tasks)
    keep = case.state.channels.all
    keep[case.state.channels.group("inner").units[:6]] = False
    program = materialise(case.state.program, case.state.channels, keep)
    judge = replace(guaranteed(1e9), loss=nothing, metric=lambda device: MeanSquaredError())
    ctx = replace(case.ctx, tasks=(*tasks[:1], replace(judge, weight=2.0)), original=case.state.program)
    # validation's maps are the original's with noise: closer to the original is closer to them
    after = finetune(epochs=3, lr=0.01, distill=1.0).run(replace(case.state, program=program), ctx).program
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = case.state.program.module(x)["map"]
        distances = [functional.mse_loss(p.module(x)["map"], wanted).item() for p in (program, after)]
    assert distances[1] < distances[0]
