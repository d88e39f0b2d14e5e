"""The oracle against the definition: per-sample means, and what it leaves untouched."""

import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from pagcp_ir.rewrite import materialise
from pagcp_ir.verify import masked
from passes.data import Batch
from passes.oracle import RealOracle
from passes.tasks import Task, task_losses


def half(case):
    keep = case.state.channels.all
    keep[case.state.channels.group("inner").units[::2]] = False
    return keep


def by_sample(module, tasks, batches):
    """The mean over samples of the losses of batches of one sample."""
    found = []
    for batch in batches:
        for i in range(batch.size):
            output = module(*(x[i : i + 1] for x in batch.inputs))
            target = {key: value[i : i + 1] for key, value in batch.target.items()}
            found.append([float(v) for v in task_losses(tasks, output, target).values()])
    return np.mean(found, axis=0)


def test_losses_are_per_sample_means_of_the_masked_network(case):
    state, batches = case.state, case.ctx.data["calibration"].cached()
    assert [b.size for b in batches] == [16, 24]  # so that a mean of batch means would differ
    keep = half(case)
    got = case.ctx.oracle.losses(state.program, state.channels, keep)
    with torch.no_grad():
        expected = by_sample(masked(state.program, state.channels, keep), case.ctx.tasks, batches)
    assert list(got) == ["label", "map"]
    np.testing.assert_allclose(list(got.values()), expected, rtol=1e-5)


def test_answers_are_remembered_for_one_program(case):
    oracle, state = case.ctx.oracle, case.state
    first = oracle.losses(state.program, state.channels, half(case))
    assert oracle.losses(state.program, state.channels, half(case)) == first
    assert (oracle.usage.evaluations, oracle.usage.images) == (1, 40)
    cut = materialise(state.program, state.channels, half(case))
    here = state.channels.restrict(half(case))
    assert oracle.losses(cut, here, half(case)) == pytest.approx(first)
    assert oracle.usage.evaluations == 2


def test_nothing_outside_changes(case):
    state, oracle = case.state, case.ctx.oracle

    def world():
        module = state.program.module
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            module.training,
            [p.grad for p in module.parameters()],
            [p.requires_grad for p in module.parameters()],
            [t.sum().item() for t in state.program.tensors().values()],
            torch.is_grad_enabled(),
        )

    before = world()
    oracle.losses(state.program, state.channels, half(case))
    oracle.gradients(state.program)
    assert world() == before


def test_a_loss_that_draws_random_numbers_gives_the_same_answer_twice(case):
    def noisy(output, target):
        return functional.mse_loss(output, target + torch.randn_like(target))

    task = Task("map", "map", "map", loss=noisy)
    batches, state = case.ctx.data["calibration"].cached(), case.state
    first, second = (
        RealOracle([task], batches).losses(state.program, state.channels, state.channels.all) for _ in range(2)
    )
    assert first == second


def test_losses_that_are_not_finite_come_back_as_they_are(case):
    task = Task("map", "map", "map", loss=lambda output, target: output.sum() * float("nan"))
    got = RealOracle([task], case.ctx.data["calibration"].cached()).losses(
        case.state.program, case.state.channels, case.state.channels.all
    )
    assert np.isnan(got["map"])


def test_gradients_are_those_of_the_weighted_mean_loss(case):
    state, tasks = case.state, case.ctx.tasks
    got = case.ctx.oracle.gradients(state.program)
    module = state.program.copy()
    batches = case.ctx.data["calibration"].cached()
    whole = Batch(
        (torch.cat([b.inputs[0] for b in batches]),),
        {key: torch.cat([b.target[key] for b in batches]) for key in ("label", "map")},
        40,
    )
    losses = task_losses(tasks, module(*whole.inputs), whole.target)
    (losses["label"] + 2.0 * losses["map"]).backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-6)
