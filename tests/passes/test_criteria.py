"""Criteria: the literal table by hand, and torch-pruning's own scores through the adapter."""

import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn

from pagcp_ir.analyse import analyse
from pagcp_ir.program import TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from passes.base import Context
from passes.criteria import CRITERIA, scores
from passes.data import Batch
from passes.oracle import RealOracle
from passes.tasks import Task
from specs.diagnostics import PassError
from specs.options import CRITERIA as KNOWN
from specs.spec import Budgets

CTX = Context(budgets=Budgets())


class Coupled(nn.Module):
    """Two producers of one group of 4 channels, with different kernels; then a grouped reader of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(1, 4, (1, 4), bias=False)
        self.c = nn.Conv2d(4, 4, 1, groups=2, bias=False)
        self.d = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.d(self.c(self.a(x[..., :1]) + self.b(x)))


def coupled():
    net = Coupled()
    net.a.weight.data = torch.tensor([1.0, -2.0, 3.0, -4.0]).view(4, 1, 1, 1)
    net.b.weight.data = torch.tensor([[4.0, 0, 0, -4], [1, 1, 1, 1], [0, 0, 0, 2], [0, 0, 0, 0]]).view(4, 1, 1, 4)
    net.c.weight.data = torch.tensor([[3.0, 4.0], [0, -1], [6, 8], [2, 0]]).view(4, 2, 1, 1)
    program = trace(net, [TensorSpec((1, 1, 4, 4))])
    return program, analyse(program)


def given(name, program, channels, ctx=CTX):
    return {
        k: None if v is None else v.tolist() for k, v in scores(name, program, channels, channels.groups, ctx).items()
    }


def test_the_table_is_what_specs_know():
    assert tuple(CRITERIA) == KNOWN


def test_l1_and_l2_by_hand():
    program, channels = coupled()
    # units: position j of both halves of the grouped convolution's input is one unit, hence two units for a and b
    names = [(g.name, len(g.units)) for g in channels.groups]
    assert names == [("a", 2), ("c", 2), ("d", 1)]
    # mean |a| + mean |b| per filter: 1+2, 2+1, 3+.5, 4+0; filters 0 and 2, 1 and 3 are one unit
    assert given("l1", program, channels)["a"] == [6.5, 7.0]
    assert given("l2", program, channels)["a"] == [6.5, 7.0]
    # c alone: the norms 7, 1, 14, 2 and 5, 1, 10, 2
    assert given("l1", program, channels)["c"] == [21.0, 3.0]
    assert given("l2", program, channels)["c"] == [15.0, 3.0]


def test_scores_follow_the_network_as_it_is_cut():
    program, channels = coupled()
    keep = channels.all
    keep[channels.group("a").units[0]] = False
    keep[channels.group("c").units[1]] = False
    cut, here = materialise(program, channels, keep), channels.restrict(keep)
    assert given("l1", cut, here)["a"] == [0.0, 7.0]
    # the second input of c's filters is what is left
    assert given("l1", cut, here)["c"] == [4.0 + 8.0, 0.0]


class Residual(nn.Module):
    """A residual block between a plain layer and a linear head."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.outer, self.outer_norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.outer_norm(self.outer(torch.relu(self.inner_norm(self.inner(x))))))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2),
        nn.Conv2d(6, 4, 1),
        nn.Flatten(),
        nn.Linear(4 * 49, 10),
        nn.ReLU(),
        nn.Linear(10, 2),
    )


@pytest.mark.parametrize("make", [Residual, plain])
@pytest.mark.parametrize(
    ("name", "importance"),
    [
        ("tp_l1", tp.importance.MagnitudeImportance(p=1)),
        ("tp_l2", tp.importance.MagnitudeImportance(p=2)),
        ("tp_bn_scale", tp.importance.BNScaleImportance()),
        ("tp_lamp", tp.importance.LAMPImportance()),
        ("tp_fpgm", tp.importance.FPGMImportance()),
        ("tp_taylor", tp.importance.TaylorImportance()),
        ("tp_hessian", tp.importance.HessianImportance()),
    ],
)
def test_torch_pruning_gives_the_same_scores_for_its_own_groups(make, name, importance):
    torch.manual_seed(3)
    net = make().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 8, 8)
    program = trace(net, [TensorSpec((1, 3, 8, 8))])
    channels = analyse(program)
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=x)
    task = Task("only", loss=lambda output, target: output.square().sum(1).mean())
    # one sample: torch-pruning's Hessian keeps that of the last one alone
    oracle = RealOracle([task], [Batch((x[:1],), None, 1)])
    task.loss(net(x[:1]), None).backward()
    if name == "tp_hessian":
        importance.accumulate_grad(net)
        importance(next(iter(graph.get_all_groups(root_module_types=(nn.Conv2d,)))))  # fills the gradients in
    ctx = Context(budgets=Budgets(), oracle=oracle)
    ours = given(name, program, channels, ctx)
    modules = {module: path for path, module in net.named_modules()}
    compared = 0
    for group in graph.get_all_groups(root_module_types=(nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        first = modules[group[0].dep.target.module]
        root = next(g.name for g in channels.groups if first in g.producers)
        theirs = importance(group)
        if theirs is None:
            assert ours[root] is None
        else:
            np.testing.assert_allclose(ours[root], theirs.tolist(), rtol=1e-5)
            compared += 1
    assert compared >= (1 if name == "tp_bn_scale" else 4)


def test_tp_hessian_is_the_mean_over_all_samples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    program = trace(net, [TensorSpec((1, 3))])
    channels = analyse(program)
    x, names = torch.randn(5, 3), list("abcde")
    task = Task("t", loss=lambda output, target: ((output - target["at"]) ** 2).mean() * len(target["name"]))
    batch = Batch((x,), {"at": torch.arange(5.0)[:, None], "name": names}, 5)
    got = given("tp_hessian", program, channels, Context(Budgets(), oracle=RealOracle([task], [batch])))["0"]
    squares = [torch.zeros_like(p) for p in net.parameters()]
    for i in range(5):
        net.zero_grad()
        ((net(x[i]) - i) ** 2).mean().backward()
        for square, parameter in zip(squares, net.parameters(), strict=True):
            square += parameter.grad**2 / 5
    first, _, last, _ = (p.detach() ** 2 * s for p, s in zip(net.parameters(), squares, strict=True))
    raw = first.sum(1) + last.sum(0)
    np.testing.assert_allclose(got, raw / raw.mean(), rtol=1e-5)


def test_a_group_without_batch_norm_has_no_bn_scale():
    program, channels = coupled()
    assert given("tp_bn_scale", program, channels) == {"a": None, "c": None, "d": None}


def test_units_at_several_positions_add_up_in_the_adapter():
    program, channels = coupled()
    # |c|: outputs 21, 3; |d| per input of d, two positions each; normalised by the mean
    d = program.tensors()["d.weight"].detach().abs().flatten().tolist()
    raw = np.array([21 + d[0] + d[2], 3 + d[1] + d[3]])
    np.testing.assert_allclose(given("tp_l1", program, channels)["c"], raw / raw.mean(), rtol=1e-5)


def test_random_is_seeded_per_group_and_leaves_global_generators_alone():
    program, channels = coupled()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = given("tp_random", program, channels)
    given("tp_l1", program, channels)
    assert given("tp_random", program, channels) == first
    assert first["a"] != first["c"]
    assert given("tp_random", program, channels, Context(budgets=Budgets(), seed=1)) != first
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_unknown_names_and_weights_that_are_not_finite_are_refused():
    program, channels = coupled()
    with pytest.raises(PassError) as caught:
        given("l3", program, channels)
    assert str(caught.value).startswith(
        "error[P405]: there is no criterion 'l3'\n  hint: known: l1, l2, task_taylor, tp_l1"
    )
    program.tensors()["c.weight"].data[0] = torch.nan
    with pytest.raises(PassError) as caught:
        given("l1", program, channels)
    assert str(caught.value) == "error[P405]: l1 gives group 'c' a score that is not finite"


def test_a_unit_that_more_layers_make_is_not_worth_more_for_that() -> None:
    class Uneven(nn.Module):
        """[a, b] + [c]: c makes every unit a second time; d adds to those of b only."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.d = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.c, self.h = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.h(torch.cat([self.a(x), self.b(x) + self.d(x)], 1) + self.c(x))

    model = Uneven()
    for layer in (model.a, model.b, model.c, model.d):
        nn.init.ones_(layer.weight)
    program = trace(model, [TensorSpec((1, 3, 8, 8))])
    channels = analyse(program)
    (group,) = [g for g in channels.groups if "c" in g.producers]
    found = scores("l1", program, channels, [group], None)[group.name]  # type: ignore[arg-type]
    assert found is not None
    assert len(set(found.tolist())) == 1
