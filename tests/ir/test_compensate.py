"""Compensated cuts against networks whose removed units were replaced by their means where they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import nn

from pagcp_ir.analyse import analyse
from pagcp_ir.compensate import compensated, described, folds, needed
from pagcp_ir.cost import costs
from pagcp_ir.planning import legal
from pagcp_ir.program import TensorSpec
from pagcp_ir.reads import Observer, means, reads
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify
from pagcp_ir.verify_compensated import verify_compensated
from tests.ir.nets.check import counted_params, random_keep, recipes
from tests.ir.nets.make import input_specs, random_net


class Net(nn.Module):
    """`parts` as attributes, `step` as forward."""

    def __init__(self, step, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.step = step

    def forward(self, x):
        return self.step(self, x)


class Case:
    """A traced network, its means on some data, and a cut of it."""

    def __init__(self, net, shape=(1, 3, 9, 9), grow=True, ratio=0.5, seed=0, keep=None):
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
        self.program = trace(net.eval(), [TensorSpec(shape)])
        self.channels = analyse(self.program)
        self.data = [torch.randn(5, *shape[1:]) + 0.3 for _ in range(2)]
        self.found = reads(self.program, self.channels)
        self.average = means(self.program, self.found, ((x,) for x in self.data))
        self.keep = self.random_keep(ratio, seed) if keep is None else keep
        self.cut = materialise(self.program, self.channels, self.keep)
        self.folds = tuple(f for f in folds(self.program, self.found, grow) if f.loses(self.keep))
        lacking = {f.tensor: needed(self.program, f, self.average, self.keep) for f in self.folds}
        self.emitted = compensated(self.cut, self.folds, self.keep, lacking)

    def random_keep(self, ratio, seed):
        keep, rng = self.channels.all, np.random.default_rng(seed)
        for unit in rng.permutation(np.flatnonzero(self.channels.free)):
            if rng.random() < ratio:
                keep[unit] = False
                keep[unit] = not legal(self.channels, keep)
        assert not keep.all()
        return keep

    def at_means(self, x, only=None):
        """The dense network, every removed unit replaced by its mean at the inputs of weighted calls."""

        def see(read, value):
            if not read.weighted or (only is not None and read.node not in only):
                return value
            gone = torch.from_numpy(~self.keep[read.units]).view(-1, *(1,) * (-1 - read.axis))
            return torch.where(gone, self.average[read.node].to(value).view(gone.shape), value)

        return Observer(self.program.module, self.found, see)(x)

    def check(self):
        assert verify(self.program, self.channels, self.keep, self.cut).status == "exact"
        result = verify_compensated(self.program, self.folds, self.average, self.keep, self.cut, self.emitted)
        assert result.status == "exact", result

    def distance(self):
        x = torch.randn(4, *self.data[0].shape[1:])
        with torch.no_grad():
            return float((self.emitted.module(x) - self.at_means(x)).abs().max())


def residual():
    return Net(
        lambda m, x: m.head((y := F.silu(m.n(m.a(x)))) + torch.sigmoid(m.c(torch.tanh(m.b(y))))),
        a=nn.Conv2d(3, 8, 3), n=nn.BatchNorm2d(8), b=nn.Conv2d(8, 6, 1), c=nn.Conv2d(6, 8, 1), head=nn.Conv2d(8, 4, 3),
    )  # fmt: skip


def concat():
    return Net(
        lambda m, x: m.head(torch.cat([torch.sigmoid(m.a(x)), F.avg_pool2d(m.b(x), 3, 1, 1)], 1).relu()),
        a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(3, 5, 3), head=nn.Conv2d(11, 4, 2),
    )  # fmt: skip


def depthwise():
    return Net(
        lambda m, x: m.head(torch.sigmoid(m.n(m.d(F.silu(m.a(x)))))),
        a=nn.Conv2d(3, 10, 1), d=nn.Conv2d(10, 20, 3, padding=1, groups=10, bias=False), n=nn.BatchNorm2d(20),
        head=nn.Conv2d(20, 4, 1),
    )  # fmt: skip


def flattened():
    return Net(
        lambda m, x: m.head(torch.sigmoid(m.h(F.max_pool2d(torch.sigmoid(m.a(x)), 3).flatten(1)))),
        a=nn.Conv2d(3, 6, 1), h=nn.Linear(54, 7), head=nn.Linear(7, 3),
    )  # fmt: skip


def grouped():
    return Net(
        lambda m, x: m.head(torch.sigmoid(m.g(torch.sigmoid(m.a(x))))),
        a=nn.Conv2d(3, 8, 1), g=nn.Conv2d(8, 12, 3, groups=4), head=nn.Conv2d(12, 4, 3),
    )  # fmt: skip


def transposed():
    return Net(
        lambda m, x: m.head(torch.sigmoid(m.t(torch.sigmoid(m.a(x))))),
        a=nn.Conv2d(3, 16, 1), t=nn.ConvTranspose2d(16, 12, 1, groups=2), head=nn.ConvTranspose2d(12, 4, 1),
    )  # fmt: skip


def without_biases():
    """In front of a BatchNorm, in front of a sum, and a linear layer over positions."""
    return Net(
        lambda m, x: m.head((torch.sigmoid(m.n(m.b(y := F.silu(m.a(x))))) + m.c(y)).flatten(2).transpose(1, 2)),
        a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 8, 3, bias=False), n=nn.BatchNorm2d(8),
        c=nn.Conv2d(6, 8, 3, bias=False), head=nn.Linear(8, 5, bias=False),
    )  # fmt: skip


def mirrored():
    """Padded, but not with zeros."""
    return Net(
        lambda m, x: m.head(torch.sigmoid(m.a(x))),
        a=nn.Conv2d(3, 8, 3), head=nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"),
    )  # fmt: skip


def functional():
    return Net(
        lambda m, x: F.conv2d(F.conv2d(x, m.w, m.v).sigmoid(), m.u, m.b, stride=2),
        w=nn.Parameter(torch.randn(8, 3, 1, 1)), v=nn.Parameter(torch.randn(8)),
        u=nn.Parameter(torch.randn(4, 8, 3, 3)), b=nn.Parameter(torch.randn(4)),
    )  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [residual, concat, depthwise, flattened, grouped, transposed, without_biases, mirrored, functional],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_zeros_padded_in_it_is_the_original_at_means(make, seed):
    torch.manual_seed(seed)
    case = Case(make(), seed=seed)
    assert case.folds
    case.check()
    assert case.distance() < 1e-5


def test_a_constant_unit_is_free_to_remove_anywhere_in_the_middle():
    """A unit with zero weights is its mean: with compensation nothing changes, without it much does."""
    torch.manual_seed(0)
    net = residual()
    for layer in (net.a, net.b, net.c):
        layer.weight.data[2:4] = 0
    program = trace(net.eval(), [TensorSpec((1, 3, 9, 9))])
    channels = analyse(program)
    keep = channels.all
    for name in ("a", "b"):
        keep[channels.group(name).units[2:4]] = False
    case = Case(net, keep=keep)
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        dense = case.program.module(x)
        torch.testing.assert_close(case.emitted.module(x), dense, rtol=1e-5, atol=1e-5)
        assert float((case.cut.module(x) - dense).abs().max()) > 0.01


def padded(stride=1):
    return Net(
        lambda m, x: m.head(torch.sigmoid(m.a(x))),
        a=nn.Conv2d(3, 8, 1), head=nn.Conv2d(8, 4, 3, padding=1, stride=stride),
    )  # fmt: skip


def strided_transposed():
    return Net(
        lambda m, x: m.head(torch.sigmoid(m.a(x))),
        a=nn.Conv2d(3, 8, 1), head=nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1),
    )  # fmt: skip


@pytest.mark.parametrize("make", [padded, lambda: padded(2), strided_transposed])
def test_where_zeros_are_padded_in_it_is_right_on_average(make):
    torch.manual_seed(0)
    case = Case(make())
    case.check()
    x = torch.randn(3, 3, 9, 9)
    with torch.no_grad():
        got, expected, plain = case.emitted.module(x), case.at_means(x), case.cut.module(x)
    torch.testing.assert_close(got.mean((0, 2, 3)), expected.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    assert float((got - expected).abs().max()) > 1e-3
    assert float((got - expected).square().mean()) < float((plain - expected).square().mean())


def test_a_constant_with_a_full_kernel_by_hand():
    net = padded()
    nn.init.zeros_(net.a.weight), nn.init.constant_(net.a.bias, 100.0), nn.init.ones_(net.head.weight)
    program = trace(net.eval(), [TensorSpec((1, 3, 9, 9))])
    channels = analyse(program)
    keep = channels.all
    keep[channels.group("a").units[:3]] = False
    case = Case(net, keep=keep)
    # three inputs of 1; of the 3 by 3 kernel 25 / 27 lie inside in each direction on average
    change = case.emitted.tensors()["head.bias"] - program.tensors()["head.bias"]
    np.testing.assert_allclose(change.detach(), [3 * (25 / 27 * 3) ** 2] * 4, rtol=1e-5)
    assert case.emitted.tensors()["head.weight"] is case.cut.tensors()["head.weight"]


def test_a_shared_layer_gets_the_mean_of_what_its_calls_need():
    torch.manual_seed(0)
    net = Net(
        lambda m, x: m.head(torch.tanh(m.s(torch.sigmoid(m.s(torch.sigmoid(m.a(x))))))),
        a=nn.Conv2d(3, 8, 1), s=nn.Conv2d(8, 8, 1), head=nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    case = Case(net)
    case.check()
    (shared,) = (f for f in case.folds if f.name == "s")
    assert len(shared.reads) == 2
    weight = net.s.weight.detach()[:, :, 0, 0].double()
    gone = torch.from_numpy(~case.keep[shared.reads[0].units])
    each = [weight[:, gone] @ case.average[read.node][gone] for read in shared.reads]
    change = (case.emitted.tensors()["s.bias"] - case.cut.tensors()["s.bias"]).double()
    torch.testing.assert_close(change.detach(), (sum(each) / 2)[~gone], rtol=1e-4, atol=1e-6)


def test_biases_that_others_use_and_calls_without_one_are_left_alone():
    def step(m, x):
        y = torch.sigmoid(m.a(x))
        return F.conv2d(y, m.u) + m.h(y) * m.b.view(1, -1, 1, 1)

    net = Net(
        step, a=nn.Conv2d(3, 8, 1), u=nn.Parameter(torch.randn(4, 8, 1, 1)), h=nn.Conv2d(8, 4, 1),
        b=nn.Parameter(torch.randn(4)),
    )  # fmt: skip
    net.h.bias = net.b
    case = Case(net)
    assert case.folds == ()
    assert all(torch.equal(t, case.cut.tensors()[name]) for name, t in case.emitted.tensors().items())


def test_a_layer_gets_a_bias_only_where_it_may():
    case = Case(without_biases(), grow=False)
    assert {fold.place for fold in case.folds} == {"running_mean"}
    case.check()


def test_new_biases_are_part_of_the_graph_and_are_cut_with_it():
    torch.manual_seed(3)
    case = Case(without_biases(), ratio=0.3)
    here = described(case.emitted, case.channels.restrict(case.keep))
    plain = case.channels.restrict(case.keep)
    assert described(case.cut, plain) is plain
    assert costs(here).params == sum(p.numel() for p in case.emitted.module.parameters())
    assert costs(here).params > costs(case.channels, case.keep).params
    keep = case.keep.copy()
    for unit in np.flatnonzero(case.keep & case.channels.free):
        keep[unit] = False
        keep[unit] = not legal(case.channels, keep)
    again = materialise(case.emitted, here, keep)
    assert verify(case.emitted, here, keep, again).status == "exact"
    assert described(again, here.restrict(keep)).layers[-1].tensors == ("head.weight", "head.bias")


def test_the_check_sees_a_wrong_bias_and_any_other_change():
    torch.manual_seed(0)
    case = Case(residual())
    arguments = (case.program, case.folds, case.average, case.keep, case.cut)
    case.emitted.tensors()["head.bias"].data[1] += 0.01
    assert verify_compensated(*arguments, case.emitted).status == "wrong"
    assert verify_compensated(*arguments, case.emitted).reason == "the compensation of `head` is not its mean"
    case = Case(residual())
    emitted = replace(case.emitted, module=case.emitted.copy())
    emitted.module.get_submodule("b").weight = nn.Parameter(case.emitted.tensors()["b.weight"] * 1.01)
    found = verify_compensated(case.program, case.folds, case.average, case.keep, case.cut, emitted)
    assert (found.status, found.reason) == ("wrong", "compensation changed another tensor")


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(recipes())
def test_random_networks_are_compensated_by_their_means(recipe):
    net = random_net(recipe)
    program = trace(net, input_specs(net))
    channels = analyse(program)
    keep = random_keep(channels, np.random.default_rng(recipe.salt), 0.5)
    found = reads(program, channels)
    average = means(program, found, (program.example_inputs(4, seed) for seed in (1, 2)))
    active = tuple(f for f in folds(program, found) if f.loses(keep))
    cut = materialise(program, channels, keep)
    emitted = compensated(cut, active, keep, {f.tensor: needed(program, f, average, keep) for f in active})
    result = verify_compensated(program, active, average, keep, cut, emitted)
    assert result.status == "exact", result
    here = described(emitted, channels.restrict(keep))
    assert costs(here).params == counted_params(emitted)
