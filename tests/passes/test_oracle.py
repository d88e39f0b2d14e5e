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


def test_samples_are_what_losses_average(case):
    state, oracle = case.state, case.ctx.oracle
    keep = half(case)
    before = oracle.losses(state.program, state.channels, keep)
    samples = oracle.samples(state.program, state.channels, keep, oracle.batches)
    assert samples.total == 40
    for task, values in samples.values.items():
        assert values.shape == (40,)
        assert values.mean() == pytest.approx(before[task], rel=1e-5)
    after = oracle.losses(state.program, state.channels, keep)
    assert after == pytest.approx({task: values.mean() for task, values in samples.values.items()})


def test_samples_come_in_one_random_order_for_every_keep_set(case):
    state, oracle = case.state, case.ctx.oracle
    given = case.ctx.data["calibration"].cached()
    expected = by_sample_each(state.program.module, case.ctx.tasks, given)
    whole, cut = (
        oracle.samples(state.program, state.channels, keep, 1).values["map"]
        for keep in (state.channels.all, half(case))
    )
    places = [int(np.abs(expected - value).argmin()) for value in whole]
    assert sorted(set(places)) == sorted(places) != places
    assert max(places) >= 16  # not the first batch as it was given
    masked_expected = by_sample_each(masked(state.program, state.channels, half(case)), case.ctx.tasks, given)
    np.testing.assert_allclose(cut, masked_expected[places], rtol=1e-4)


def by_sample_each(module, tasks, batches):
    """The map's loss of every sample, in the data's order."""
    found = []
    with torch.no_grad():
        for batch in batches:
            for i in range(batch.size):
                output = module(*(x[i : i + 1] for x in batch.inputs))
                target = {key: value[i : i + 1] for key, value in batch.target.items()}
                found.append(float(task_losses(tasks, output, target)["map"]))
    return np.array(found)


def test_more_samples_cost_only_what_is_more(case):
    state, oracle = case.state, case.ctx.oracle
    keep = half(case)
    first = oracle.samples(state.program, state.channels, keep, 1)
    assert (oracle.usage.evaluations, oracle.usage.images) == (1, 16)
    again = oracle.samples(state.program, state.channels, keep, 2)
    assert (oracle.usage.evaluations, oracle.usage.images) == (1, 40)
    np.testing.assert_array_equal(again.values["map"][:16], first.values["map"])
    oracle.losses(state.program, state.channels, keep)
    assert oracle.usage.images == 40


def test_keep_sets_that_were_left_halfway_are_taken_up_again(case):
    state, oracle, keeps = case.state, case.ctx.oracle, []
    for unit in case.state.channels.group("inner").units[:7]:
        keep = state.channels.all
        keep[unit] = False
        keeps.append(keep)
        oracle.samples(state.program, state.channels, keep, 1)
    found = [oracle.samples(state.program, state.channels, keep, 2) for keep in keeps]
    assert oracle.usage.images == 7 * 40
    fresh = RealOracle(case.ctx.tasks, case.ctx.data["calibration"].cached())
    for keep, samples in zip(keeps, found, strict=True):
        expected = fresh.samples(state.program, state.channels, keep, 2)
        np.testing.assert_array_equal(samples.values["label"], expected.values["label"])


def test_a_loss_that_is_no_mean_of_its_samples_is_taken_by_the_batch(case):
    weight = torch.tensor([9.0, 1.0, 1.0, 1.0])
    loss = lambda output, target: functional.cross_entropy(output, target, weight)  # noqa: E731
    oracle = RealOracle([Task("label", "label", "label", loss=loss)], case.ctx.data["calibration"].cached())
    state = case.state
    samples = oracle.samples(state.program, state.channels, state.channels.all, 2)
    assert (samples.values["label"].shape, samples.total) == ((2,), 2)


@pytest.mark.parametrize("looks", [False, True])
def test_samples_are_told_apart_at_once_where_the_loss_allows_it(case, looks):
    calls = []

    def loss(output, target):
        calls.append(len(output))
        value = functional.mse_loss(output, target)
        return value * 1.0 if looks and value.item() > -1 else value

    state, batches = case.state, case.ctx.data["calibration"].cached()
    oracle = RealOracle([Task("map", "map", "map", loss=loss)], batches)
    oracle.samples(state.program, state.channels, state.channels.all, 1)
    del calls[:]
    found = oracle.samples(state.program, state.channels, half(case), 2).values["map"]
    assert len(calls) == (40 if looks else 2)
    expected = case.ctx.oracle.samples(state.program, state.channels, half(case), 2).values["map"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_last_short_batch_is_merged_into_the_one_before(case):
    (batch,) = [b for b in case.ctx.data["calibration"].cached() if b.size == 24]
    parts = [
        Batch((batch.inputs[0][rows],), {key: value[rows] for key, value in batch.target.items()}, len(rows))
        for rows in torch.arange(24).split([11, 11, 2])
    ]
    state = case.state
    whole, cut = (RealOracle(case.ctx.tasks, given) for given in ([batch], parts))
    assert (whole.batches, cut.batches) == (1, 2)
    keep = state.channels.all
    expected = whole.losses(state.program, state.channels, keep)
    assert cut.losses(state.program, state.channels, keep) == pytest.approx(expected, rel=1e-5)


def test_the_first_batch_whose_loss_is_not_finite_is_known(case):
    seen = []

    def loss(output, target):
        seen.append(0)
        return output.mean() / (0.0 if len(seen) == 2 else 1.0)

    oracle, state = (
        RealOracle([Task("map", "map", "map", loss=loss)], case.ctx.data["calibration"].cached()),
        case.state,
    )
    keep = state.channels.all
    assert oracle.unfit(keep) == {}
    assert not np.isfinite(oracle.losses(state.program, state.channels, keep)["map"])
    assert oracle.unfit(keep) == {"map": 1}


def test_a_part_is_the_first_samples_and_the_whole_goes_on_from_it(case, monkeypatch):
    state, batches = case.state, case.ctx.data["calibration"].cached()
    assert case.ctx.oracle.parts == ()  # 40 samples are not worth it
    monkeypatch.setattr("passes.oracle.SCOUTED", 10)
    monkeypatch.setattr("passes.oracle.WORTH", 4)
    whole = RealOracle(case.ctx.tasks, batches)
    asked = state.program, state.channels, half(case)
    first = RealOracle(case.ctx.tasks, batches[:1]).losses(*asked)
    assert whole.parts == (1,)
    assert whole.glimpse(*asked, 1) == first
    assert (whole.usage.evaluations, whole.usage.images) == (0, 16)
    assert whole.losses(*asked) == case.ctx.oracle.losses(*asked)  # bit by bit
    assert (whole.usage.evaluations, whole.usage.images) == (1, 40)
    assert whole.glimpse(*asked, 1) == first  # when all is known, too
    whole.losses(*asked)
    assert (whole.usage.evaluations, whole.usage.images) == (1, 40)
