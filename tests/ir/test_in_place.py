"""Models cut in place: equal to the cut program, or refused; what forward says itself is found and pinned."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from pagcp_cli import apply_plan, read_plan
from pagcp_ir.analyse import analyse
from pagcp_ir.in_place import cut_in_place, filled, require_same_outputs, tensors_by_name
from pagcp_ir.planning import kept_ranges, make_plan
from pagcp_ir.program import TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.written import WHY, pin_written
from specs.diagnostics import PagcpError, PlanError, TraceError, VerifyError
from specs.plan import Plan
from tests.ir.nets.check import dealt, random_keep
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


def conv(inputs=3, outputs=8, kernel=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, **options)


def head(inputs=8):
    return conv(inputs, 2)


PLAIN = {
    "norm": lambda: nn.Sequential(conv(bias=False), nn.BatchNorm2d(8), nn.ReLU(), head()),
    "depthwise": lambda: nn.Sequential(conv(), conv(8, 16, 3, groups=8), head(16)),
    "grouped": lambda: nn.Sequential(conv(), conv(8, 12, 3, groups=2), head(12)),
    "transposed": lambda: nn.Sequential(
        conv(), nn.ConvTranspose2d(8, 6, 2), nn.ConvTranspose2d(6, 6, 3, groups=6), head(6)
    ),
    "flattened": lambda: nn.Sequential(
        conv(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6), nn.Linear(6, 2)
    ),
    "slopes": lambda: nn.Sequential(conv(), nn.PReLU(8), nn.InstanceNorm2d(8, affine=True), head()),
    "one group a channel": lambda: nn.Sequential(conv(), nn.GroupNorm(8, 8), head()),
    "groups of channels": lambda: nn.Sequential(conv(), nn.GroupNorm(2, 8), head()),
    "layer norm": lambda: Net(
        lambda m, x: m.out(m.norm(m.conv(x).mean(3).transpose(1, 2))),
        conv=conv(),
        norm=nn.LayerNorm(8),
        out=nn.Linear(8, 2),
    ),
    "sizes from shapes": lambda: Net(
        lambda m, x: m.out((y := m.conv(x)).reshape(y.shape[0], y.shape[1], -1).mean(2)),
        conv=conv(),
        out=nn.Linear(8, 2),
    ),
    "residual": lambda: Net(lambda m, x: m.out((y := m.conv(x)) + m.more(y)), conv=conv(), more=conv(8, 8), out=head()),
    "two names": lambda: tied(),
}


def tied():
    net = nn.Sequential(conv(), conv(8, 8), nn.ReLU(), conv(8, 8), head())
    net[3].weight = net[1].weight
    return net


def opened(net):
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    program = trace(net.eval(), [TensorSpec((1, 3, 6, 6))])
    return program, analyse(program)


def some(channels, ratio=0.5, seed=3):
    keep = random_keep(channels, np.random.default_rng(seed), ratio)
    assert not keep.all()
    return keep


def attributes(module):
    plain = (int, float, str, tuple)
    return {
        name: {k: v for k, v in vars(part).items() if isinstance(v, plain) and not k.startswith("_")}
        for name, part in module.named_modules()
        if type(part).__module__.startswith("torch.nn.modules")
    }


@pytest.mark.parametrize("name", PLAIN)
def test_a_plan_is_applied_to_the_model_itself(name, tmp_path):
    net = PLAIN[name]()
    program, channels = opened(net)
    assert pin_written(program, channels, tensors_by_name(net)) is channels
    keep = some(channels)
    cut, plan = materialise(program, channels, keep), make_plan(program, channels, keep)
    (tmp_path / "plan.json").write_text(plan.to_json())
    parameters = list(net.parameters())
    assert apply_plan(net, read_plan(tmp_path / "plan.json"), [[1, 3, 6, 6]]) is net
    x = torch.randn(3, 3, 6, 6)
    assert torch.equal(net(x), cut.module(x))
    assert [id(p) for p in net.parameters()] == [id(p) for p in parameters]
    own, theirs = attributes(net), attributes(cut.module)
    assert all(own[module] == theirs[module] for module in theirs if module in own)
    net.train()(x).sum().backward()


WRITTEN = {
    "view": Net(lambda m, x: m.out(m.conv(x).view(-1, 8 * 36)), conv=conv(), out=nn.Linear(288, 2)),
    "a size of its own": Net(
        lambda m, x: m.out(m.conv(x).view(x.shape[0], m.width, -1).mean(2)), conv=conv(), out=nn.Linear(8, 2)
    ),
    "chunk": Net(lambda m, x: m.out(torch.cat(m.conv(x).chunk(2, 1)[::-1], 1)), conv=conv(), out=head()),
    "split": Net(lambda m, x: m.out(m.conv(x).split([3, 5], 1)[1]), conv=conv(), out=head(5)),
    "slice": Net(lambda m, x: m.out(m.conv(x)[:, 2:7]), conv=conv(), out=head(5)),
    "value": Net(lambda m, x: m.out((y := m.conv(x)) / y.shape[1] ** 0.5), conv=conv(), out=head()),
    "scale of attention": Net(
        lambda m, x: F.scaled_dot_product_attention(*(p(x).flatten(2).mT for p in (m.q, m.k, m.v))),
        q=conv(), k=conv(), v=conv(outputs=4),
    ),
    "module without tensors": nn.Sequential(conv(), nn.Flatten(), nn.Unflatten(1, (8, 36)), nn.Conv1d(8, 2, 1)),
    "norm without tensors": Net(
        lambda m, x: m.out(m.norm(m.conv(x).mean(3).mT)),
        conv=conv(), norm=nn.LayerNorm(8, elementwise_affine=False), out=nn.Linear(8, 2),
    ),
}  # fmt: skip
WRITTEN["a size of its own"].width = 8


@pytest.mark.parametrize("name", WRITTEN)
def test_what_forward_says_itself_is_pinned_with_its_line_and_refused_without(name):
    net = WRITTEN[name]
    program, channels = opened(net)
    before = copy.deepcopy(net.state_dict())
    keep = some(channels)
    with pytest.raises(VerifyError, match=r"error\[V503\]: the model, cut in place, (raises|differs)"):
        apply_plan(net, make_plan(program, channels, keep), [[1, 3, 6, 6]])
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())

    pinned = pin_written(program, channels, tensors_by_name(net))
    found = pinned.pins[len(channels.pins) :]
    assert found
    for pin in found:
        assert re.fullmatch(f"`[^`]+` is told sizes or values that would change, {re.escape(WHY)}", pin.reason)
        assert pin.where.startswith("tests/ir/test_in_place.py:")
    width = pinned.group("q" if name == "scale of attention" else pinned.groups[0].name).units
    assert not pinned.free[width].any()


def test_only_what_meets_it_is_pinned():
    net = Net(
        lambda m, x: m.out(m.more(torch.relu(m.conv(x))).flatten(1).view(-1, 216)),
        conv=conv(), more=conv(8, 6), out=nn.Linear(216, 2),
    )  # fmt: skip
    program, channels = opened(net)
    pinned = pin_written(program, channels, tensors_by_name(net))
    assert pinned.free[pinned.group("conv").units].all()
    assert not pinned.free[pinned.group("more").units].any()
    keep = some(pinned)
    apply_plan(net, make_plan(program, pinned, keep), [[1, 3, 6, 6]])
    assert net.conv.out_channels < 8


def test_what_is_no_tensor_of_the_model_is_pinned():
    net = nn.Sequential(parametrizations.weight_norm(conv()), nn.ReLU(), head())
    program, channels = opened(net)
    pinned = pin_written(program, channels, tensors_by_name(net))
    (pin,) = pinned.pins[len(channels.pins) :]
    assert pin.reason == "`0.weight` is no tensor of the model, and finetune.trainer runs the model's own code"
    assert not pinned.free.any()
    with pytest.raises(PlanError) as caught:
        apply_plan(net, make_plan(program, channels, some(channels)), [[1, 3, 6, 6]])
    assert str(caught.value) == "error[L806]: the plan cuts `0.weight`, which the model lacks"


def test_a_plan_of_another_network_is_refused():
    program, channels = opened(nn.Sequential(conv(), nn.ReLU(), head()))
    plan = make_plan(program, channels, some(channels))
    with pytest.raises(PlanError, match=r"error\[L805\]: the plan has group `0` at width 8, the network 6"):
        apply_plan(nn.Sequential(conv(3, 6), nn.ReLU(), head(6)), plan, [[1, 3, 6, 6]])
    with pytest.raises(PlanError) as caught:
        apply_plan(nn.Sequential(conv(), nn.BatchNorm2d(8), head()), plan, [[1, 3, 6, 6]])
    assert str(caught.value) == "error[L806]: the plan cuts `1.bias` in another way than this model would be cut"


def test_nothing_is_cut_of_a_smaller_model():
    _, channels = opened(nn.Sequential(conv(), nn.ReLU(), head()))
    keep = channels.all
    keep[channels.group("0").units[0]] = False
    smaller = nn.Sequential(conv(3, 6), nn.ReLU(), head(6))
    with pytest.raises(PlanError) as caught:
        cut_in_place(smaller, kept_ranges(channels, keep))
    assert str(caught.value) == "error[L806]: the plan keeps index 7 of dim 0 of `0.weight`, which has 6"
    assert smaller[0].weight.shape == (6, 3, 1, 1)


def test_tensors_are_filled_in_and_a_bias_is_made():
    net = nn.Sequential(conv(bias=False), nn.ReLU(), head())
    values = {"0.bias": torch.ones(8), "2.weight": torch.zeros(2, 8, 1, 1), "_constant": torch.ones(1)}
    filled(net, values)
    assert torch.equal(net[0].bias, torch.ones(8))
    assert isinstance(net[0].bias, nn.Parameter)
    assert not net[2].weight.any()
    values["0.bias"].zero_()
    assert net[0].bias.all()


def test_random_networks_are_cut_in_place_exactly():
    cuts = 0
    for recipe in dealt(12, salt=7):
        net = random_net(recipe)
        program = trace(net, input_specs(net))
        channels = pin_written(program, analyse(program), tensors_by_name(net))
        keep = random_keep(channels, np.random.default_rng(1), 0.5)
        model = random_net(recipe)
        cut_in_place(model, kept_ranges(channels, keep))
        require_same_outputs(model, materialise(program, channels, keep), str(recipe))
        cuts += not keep.all()
    assert cuts > 6


NO_PLAN = 'error[L802]: apply_plan takes a Plan, got a {kind}\n  hint: read it first: read_plan("out/plan.json")'
NO_SHAPES = (
    "error[T203]: apply_plan needs the shape of each input of the model, batch first\n"
    "  hint: apply_plan(model, plan, [[1, 3, 224, 224]])"
)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((Plan,), NO_PLAN.format(kind="type")),
        (("out/plan.json",), NO_PLAN.format(kind="str")),
        ((None,), NO_SHAPES),
        ((None, [1, 3, 6, 6]), NO_SHAPES),
        ((None, 6), NO_SHAPES),
        ((None, [[1, 3.5]]), NO_SHAPES),
        ((None, [[]]), NO_SHAPES),
    ],
)
def test_a_call_that_cannot_be_meant(arguments, told):
    net = PLAIN["norm"]()
    program = trace(net, [TensorSpec((1, 3, 6, 6))])
    channels = analyse(program)
    plan = make_plan(program, channels, channels.all)
    with pytest.raises(PagcpError) as caught:
        apply_plan(net, *(plan if given is None else given for given in arguments))
    assert str(caught.value) == told


def test_what_is_no_module():
    with pytest.raises(TraceError) as caught:
        apply_plan(3, None, [[1]])
    assert str(caught.value) == "error[T202]: apply_plan takes a torch.nn.Module, got a int"
