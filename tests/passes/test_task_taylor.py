"""task_taylor against the definition: every unit in turn moved towards its mean in a network written out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import given as given_recipes
from torch import nn
from torch.nn import functional

from pagcp_ir.analyse import analyse
from pagcp_ir.program import TensorSpec
from pagcp_ir.reads import Observer, means, reads
from pagcp_ir.trace import trace
from pagcp_ir.verify import _tensors
from passes.base import Context, run_passes
from passes.criteria import scores
from passes.data import Batch
from passes.oracle import RealOracle
from passes.pagcp import Pagcp
from passes.task_taylor import combined, effects
from passes.tasks import Task
from passes.uniform import Uniform
from specs.diagnostics import PassError
from specs.options import PagcpOptions, UniformOptions
from specs.spec import Budgets
from tests.ir.nets.check import recipes
from tests.ir.nets.make import input_specs, random_net


class Residual(nn.Module):
    """12 channels in all: 5 of a residual group, 4 inside the block, 3 of a hidden layer that one task alone reads.

    `at(name, value)` is called where a value enters a layer.
    """

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.inner, self.deep = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.outer = nn.Conv2d(4, 5, 1)
        self.hidden, self.label, self.map = nn.Linear(5, 3), nn.Linear(3, 4), nn.Conv2d(5, 1, 1)

    def forward(self, x):
        return self.run(x, lambda name, value: value)

    def run(self, x, at):
        x = functional.silu(self.norm(self.stem(x)))
        y = torch.sigmoid(self.deep(functional.silu(self.inner(at("inner", x)))))
        x = torch.tanh(x + self.outer(at("outer", y)))
        z = torch.tanh(self.hidden(at("hidden", x.mean((2, 3)))))
        return {"label": self.label(at("label", z)), "map": self.map(at("map", x))}


# at which layers' inputs the units of a group are, by hand
READ_BY = {"stem": ("inner", "hidden", "map"), "inner": ("outer",), "hidden": ("label",)}


@pytest.fixture(scope="module")
def given():
    torch.manual_seed(5)
    net = Residual().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.6)
    nn.init.uniform_(net.norm.running_var, 0.5, 2.0)
    batches = [
        Batch((torch.randn(n, 2, 6, 6),), {"label": torch.randint(4, (n,)), "map": torch.randn(n, 1, 6, 6)}, n)
        for n in (4, 7)
    ]
    tasks = [
        Task("label", "label", "label", loss=functional.cross_entropy),
        Task("map", "map", "map", loss=functional.mse_loss),
    ]
    program = trace(net, [TensorSpec((1, 2, 6, 6))])
    return net, program, analyse(program), tasks, batches


def by_brute_force(net, batches, group, unit):
    """[tasks]: mean over samples of the squared derivative of the loss along "the unit becomes its mean"."""
    net = net.double()
    inputs = {}
    for batch in batches:
        net.run(batch.inputs[0].double(), lambda name, value: inputs.setdefault(name, []).append(value) or value)
    means = {name: torch.cat(values).movedim(1, -1).flatten(0, -2).mean(0).detach() for name, values in inputs.items()}
    squares = []
    for batch in batches:
        for i in range(batch.size):
            step = torch.zeros((), dtype=torch.float64, requires_grad=True)

            def towards(name, value, step=step):
                if name not in READ_BY[group]:
                    return value
                moved = value.clone()
                moved[:, unit] = value[:, unit] + step * (means[name][unit] - value[:, unit])
                return moved

            output = net.run(batch.inputs[0][i : i + 1].double(), towards)
            losses = (
                functional.cross_entropy(output["label"], batch.target["label"][i : i + 1]),
                functional.mse_loss(output["map"], batch.target["map"][i : i + 1].double()),
            )
            squares.append(
                [
                    float(torch.autograd.grad(loss, step, retain_graph=True, allow_unused=True)[0] or 0)
                    for loss in losses
                ]
            )
    net.float()
    return np.square(squares).mean(0)


def test_it_equals_the_definition_on_12_channels_with_a_residual_group(given):
    net, program, channels, tasks, batches = given
    assert {g.name: len(g.units) for g in channels.groups if channels.free[g.units].all()} == {
        "stem": 5,
        "inner": 4,
        "hidden": 3,
    }
    found = effects(program, channels, tasks, batches)
    for name in READ_BY:
        group = channels.group(name)
        expected = np.array([by_brute_force(net, batches, name, unit) for unit in range(len(group.units))])
        got = np.stack([found[task.name][group.units] for task in tasks], axis=1)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-12)
    assert expected[:, 0].min() > 0 == expected[:, 1].max(), "the hidden layer is one task's own"


def test_the_worst_task_counts_after_each_is_put_over_its_mean(given):
    _, _, channels, _, _ = given
    group = channels.group("hidden")
    values = np.full(channels.n_units, np.nan)
    tasks = {name: values.copy() for name in "abc"}
    tasks["a"][group.units], tasks["b"][group.units], tasks["c"][group.units] = [1, 2, 3], [40, 20, 0], [0, 0, 0]
    assert combined(tasks, group, "max").tolist() == [2.0, 1.0, 1.5]
    assert combined(tasks, group, "sum").tolist() == [2.5, 2.0, 1.5]
    assert combined({"a": values}, group, "max") is None


def test_one_pass_serves_all_groups_and_leaves_the_program_alone(given):
    _, program, channels, tasks, batches = given
    oracle = RealOracle(tasks, batches)
    before = [(p.grad, p.requires_grad) for p in program.module.parameters()]
    found = scores("task_taylor", program, channels, channels.groups, Context(Budgets(), oracle=oracle))
    assert oracle.usage.evaluations == 1
    assert [(p.grad, p.requires_grad) for p in program.module.parameters()] == before
    assert {name: None if v is None else len(v) for name, v in found.items()} == {
        "stem": 5,
        "inner": 4,
        "hidden": 3,
        "label": None,
        "map": None,
    }


class Windows(nn.Module):
    """A value whose first axis holds four windows of every image, and one that all samples share."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.table = nn.Parameter(torch.randn(1, 5, 6))

    def forward(self, x):
        windows = x.view(x.shape[0] * 4, 4, 3)
        return self.b(torch.tanh(self.a(windows))).view(x.shape[0], -1) + self.c(torch.tanh(self.table)).mean()


def test_windows_of_an_image_belong_to_its_sample():
    torch.manual_seed(0)
    net = Windows().eval()
    program = trace(net, [TensorSpec((1, 16, 3))])
    channels = analyse(program)
    task = Task("t", loss=lambda output, target: output.square().mean())
    x = torch.randn(6, 16, 3)
    whole = effects(program, channels, [task], [Batch((x,), None, 6)])["t"]
    single = effects(program, channels, [task], [Batch((x[i : i + 1],), None, 1) for i in range(6)])["t"]
    units = channels.group("a").units
    assert (whole[units] > 0).all()
    np.testing.assert_allclose(whole[units], single[units], rtol=1e-5)


class Attention(nn.Module):
    """Queries and keys are summed without weights, values are read by the last layer."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 6) for _ in range(4))
        self.o = nn.Linear(6, 2)

    def forward(self, x):
        return self.o((self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1) @ self.v(x))


def test_in_a_sum_without_weights_a_unit_becomes_zero():
    torch.manual_seed(1)
    net = Attention().eval()
    program = trace(net, [TensorSpec((1, 5, 4))])
    channels = analyse(program)
    assert sorted(read.weighted for read in reads(program, channels)) == [False, True]
    task = Task("t", loss=lambda output, target: output.square().mean())
    x = torch.randn(1, 5, 4)
    got = effects(program, channels, [task], [Batch((x,), None, 1)])["t"]
    units = channels.group("q").units
    for unit in range(6):
        step = torch.zeros((), requires_grad=True)
        q = net.q(x)
        q = torch.cat([q[..., :unit], q[..., unit : unit + 1] * (1 - step), q[..., unit + 1 :]], -1)
        output = net.o((q @ net.k(x).transpose(1, 2)).softmax(-1) @ net.v(x))
        (derivative,) = torch.autograd.grad(output.square().mean(), step)
        np.testing.assert_allclose(got[units[unit]], float(derivative) ** 2, rtol=1e-4)


def test_selectors_take_it(case):
    for step in (
        Uniform(UniformOptions(ratio=0.5, criterion="task_taylor")),
        Pagcp(PagcpOptions(criterion="task_taylor", combine="sum", tolerance=0.5, total=3.0, grid=(0.25, 0.5))),
    ):
        after = run_passes([step], case.state, case.ctx)
        assert after.plan.after.macs < after.plan.before.macs


def squares(output, target):
    """A loss of whatever a network returns."""
    return sum((value.double() ** 2).mean() for value in _tensors(output) if value.is_floating_point())


@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given_recipes(recipes())
def test_on_random_networks_it_is_the_derivative_towards_the_means(recipe):
    net = random_net(recipe)
    program = trace(net, input_specs(net))
    channels = analyse(program)
    found = reads(program, channels)
    x = program.example_inputs(1)
    average = means(program, found, [x])
    got = effects(program, channels, [Task("t", loss=squares)], [Batch(x, None, 1)])["t"]
    read = sorted({int(u) for r in found for u in r.units if channels.free[u]})
    for unit in read[:: max(1, len(read) // 4)]:
        step = torch.zeros((), requires_grad=True)

        def towards(read, value, step=step, unit=unit):
            ours = torch.from_numpy(read.units == unit).view(-1, *(1,) * (-1 - read.axis))
            mean = average[read.node].to(value).view(ours.shape) if read.weighted else torch.zeros(ours.shape)
            return torch.where(ours, value + step * (mean - value), value)

        loss = squares(Observer(program.module, found, towards)(*x), None)
        (derivative,) = torch.autograd.grad(loss, step, allow_unused=True)
        expected = 0.0 if derivative is None else float(derivative) ** 2
        np.testing.assert_allclose(got[unit], expected, rtol=1e-3, atol=1e-8)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.round()


def test_losses_without_a_gradient_are_refused(case):
    """`criterion: l1` needs none; else all units would be worth the same, and any of them would go."""
    losses = {
        "no task's loss has one": lambda output, target: output.argmax(1).double().mean(),
        "those of 'label' are not finite": lambda output, target: (output * 0).square().sum().sqrt(),
        "must implement either the backward": lambda output, target: _Rounded.apply(output).mean(),
    }
    program, channels = case.state.program, case.state.channels
    for words, loss in losses.items():
        tasks = (Task("label", "label", "label", loss),)
        with pytest.raises(PassError, match=words) as caught:
            case.ctx.oracle.once(
                words, program, lambda _, batches, given=tasks: effects(program, channels, given, batches)
            )
        assert caught.value.diagnostics[0].code == "P405"
        hint = caught.value.diagnostics[0].hint
        assert ("missing: nan" if "finite" in words else "`criterion: l1`") in hint
