"""The route by torch.export: networks that torch.fx refuses are cut exactly, keep their names, and train as before."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.emit import EXPORTERS, About
from pagcp_ir.planning import legal
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify
from specs.diagnostics import TraceError

IMAGE = TensorSpec((1, 3, 8, 8))


def only_tensors(x: Any) -> Tensor:
    """What einops and many helpers do with an argument: they ask for its type."""
    if not isinstance(x, Tensor):
        raise TypeError(f"not a tensor: {type(x).__name__}")
    return x


class Net(nn.Module):
    """stem [8] -> step -> head; torch.fx refuses it at `only_tensors`."""

    def __init__(self, step: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.mid, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        for name, part in parts.items():
            setattr(self, name, part)
        self.step = step

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        y = self.norm(self.stem(only_tensors(x)))
        y = self.step(self, y)
        return self.head(y if y.ndim == 2 else y.mean((2, 3)))


def pyramid(net: Net, y: Tensor) -> Tensor:
    while y.shape[-1] > 2:
        y = F.avg_pool2d(net.mid(y), 2)
    return y


def guarded(net: Net, y: Tensor) -> Tensor:
    try:
        return torch.cat([y, net.mid(y)[:, :3]], 0)
    except RuntimeError:
        return net.mid(y)


def remembered(net: Net, y: Tensor) -> Tensor:
    net.last = net.mid(y).relu_()
    return net.last * 2


def shuffled(net: Net, y: Tensor) -> Tensor:
    b, c, h, w = only_tensors(y).shape
    return net.mid(y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


def heads(net: Net, y: Tensor) -> Tensor:
    t = only_tensors(y).flatten(2).transpose(1, 2)
    q, k, v = net.qkv(net.ln(t)).view(t.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
    return net.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)


NETS: dict[str, Net] = {
    "loop on sizes": Net(pyramid),
    "try and except": Net(guarded),
    "write to an attribute": Net(remembered),
    "helper that asks for types": Net(shuffled),
    "attention": Net(heads, ln=nn.LayerNorm(8), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)),
    "gates": Net(lambda m, y: y * m.mid(F.adaptive_avg_pool2d(y, 1)).sigmoid() + F.silu(m.mid(y))),
    "len and lists": Net(lambda m, y: m.mid(torch.cat([p * len(y.split(4, 1)) for p in y.chunk(2, 1)], 1))),
    "norms": Net(
        lambda m, y: m.p(m.i(m.g(m.mid(y)))), g=nn.GroupNorm(4, 8), i=nn.InstanceNorm2d(8, affine=True), p=nn.PReLU(8)
    ),
    "resize and pad": Net(lambda m, y: m.mid(F.interpolate(F.pad(y, (1, 1, 0, 0)), scale_factor=2))),
    "transposed": Net(lambda m, y: m.t(F.leaky_relu(y, 0.2)), t=nn.ConvTranspose2d(8, 8, 2, stride=2)),
    "per channel scale": Net(lambda m, y: m.mid(y * m.s), s=nn.Parameter(torch.rand(8, 1, 1))),
    "write into a slice": Net(lambda m, y: _added(m.mid(y))),
    "no gradients inside": Net(lambda m, y: y + _without_gradients(m, y)),
    "shared twice": Net(lambda m, y: m.mid(m.mid(y).relu())),
    "indices": Net(lambda m, y: m.mid(y)[:, :, :, torch.tensor([0, 2])]),
}


def _added(y: Tensor) -> Tensor:
    y[:, :2] += 1
    return y * 2


def _without_gradients(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net.mid(y) * 2


def traced(name: str) -> tuple[Net, Program]:
    torch.manual_seed(0)
    net = NETS[name].eval()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    return net, trace(net, [IMAGE])


def cut(program: Program, seed: int = 0) -> Program:
    channels = analyse(program)
    keep = channels.all
    for unit in np.random.default_rng(seed).permutation(np.flatnonzero(channels.free)):
        keep[unit] = np.random.default_rng(seed + int(unit)).random() < 0.4
        keep[unit] |= not legal(channels, keep)
    made = materialise(program, channels, keep)
    assert verify(program, channels, keep, made).status == "exact"
    return made


def emitted(program: Program, folder: Path) -> nn.Module:
    EXPORTERS["python"](program, folder, About("Test"))
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()


@pytest.mark.parametrize("name", NETS)
def test_cut_exactly_under_the_same_names(name: str) -> None:
    net, program = traced(name)
    assert program.route == "export"
    assert {n for n in program.tensors() if "lifted" not in n} <= set(net.state_dict())
    assert analyse(program).free.any()
    assert cut(program).route == "export"
    x = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), net(x))


@pytest.mark.parametrize("name", ["attention", "norms", "shared twice", "transposed", "per channel scale"])
def test_the_emitted_network_is_the_same_and_trains_as_the_program_does(name: str, tmp_path: Path) -> None:
    program = cut(traced(name)[1])
    model = emitted(program, tmp_path)
    twin, x = program.copy(), torch.rand(4, 3, 8, 8)
    for module in (model, twin):
        module.train()
        module(x).square().mean().backward()
    mine, theirs = dict(model.named_parameters()), dict(twin.named_parameters())
    assert mine.keys() == theirs.keys()
    for key, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, theirs[key].grad)
    torch.testing.assert_close(model.state_dict()["norm.running_mean"], twin.state_dict()["norm.running_mean"])


def test_it_trains_as_the_original_does() -> None:
    net, program = traced("helper that asks for types")
    twin, x = program.copy().train(), torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), net.train()(x))
    torch.testing.assert_close(twin.state_dict(), {k: net.state_dict()[k] for k in twin.state_dict()})


def test_the_text_form_is_that_of_torch_fx() -> None:
    assert traced("helper that asks for types")[1].text() == (
        "x: f32[2, 3, 8, 8] = input\n"
        "sym_size_int_1: int = .size(x, 0)\n"
        "conv2d: f32[2, 8, 8, 8] = stem: Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), "
        "bias=False)(x)\n"
        "batch_norm: f32[2, 8, 8, 8] = norm: BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, "
        "track_running_stats=True)(conv2d)\n"
        "view: f32[2, 2, 4, 8, 8] = .view(batch_norm, sym_size_int_1, 2, 4, 8, 8)\n"
        "transpose: f32[2, 4, 2, 8, 8] = .transpose(view, 1, 2)\n"
        "reshape: f32[2, 8, 8, 8] = .reshape(transpose, sym_size_int_1, 8, 8, 8)\n"
        "conv2d_1: f32[2, 8, 8, 8] = mid: Conv2d(8, 8, kernel_size=(1, 1), stride=(1, 1))(reshape)\n"
        "mean: f32[2, 8] = .mean(conv2d_1, (2, 3))\n"
        "linear: f32[2, 4] = head: Linear(in_features=8, out_features=4, bias=True)(mean)\n"
        "return linear\n"
    )


def line_of(text: str) -> int:
    with open(__file__, encoding="utf-8") as source:
        return next(number for number, line in enumerate(source, 1) if text in line)


def test_the_note_says_why_and_nodes_name_their_lines() -> None:
    program = traced("gates")[1]
    where = f"tests/ir/test_export.py:{line_of('raise TypeError(f')}"
    assert program.notes == (
        f"traced by torch.export: Net cannot be traced: TypeError: not a tensor: _ValueProxy ({where})",
    )
    places = {str(n.target): n.meta["where"] for n in program.module.graph.nodes if n.op == "call_module"}
    assert places["stem"] == f"tests/ir/test_export.py:{line_of('y = self.norm(self.stem(only')}"


def test_the_model_is_left_as_it_was() -> None:
    net = NETS["write to an attribute"].train()
    net.head.eval()
    before = {name: set(vars(m)) for name, m in net.named_modules()}
    trace(net, [IMAGE])
    assert net.training
    assert not net.head.training
    assert {name: set(vars(m)) for name, m in net.named_modules()} == before
    assert all(p.grad is None for p in net.parameters())


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(only_tensors(self.a(x)).relu())


def test_a_sub_module_with_weights_is_not_kept_whole_where_export_can() -> None:
    program = trace(Net(lambda m, y: m.inner(y), inner=Inner()), [IMAGE])
    assert program.route == "export"
    assert {"inner.a", "inner.b"} <= {group.name for group in analyse(program).groups}


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Quantised(Inner):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(Round.apply(x))


@pytest.mark.parametrize("step", [lambda m, y: m.q(y), lambda m, y: m.q(only_tensors(y))])
def test_a_gradient_of_the_users_own_is_told(step: Callable[..., Tensor]) -> None:
    program = trace(Net(step, q=Quantised()), [IMAGE])
    assert program.notes[1:] == ("Round: its own gradient is replaced by that of what it computes",)
    trace(Net(lambda m, y: only_tensors(y)), [IMAGE])
    assert torch.autograd.Function.apply.__module__ == "torch.autograd.function"


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_branch_on_data_is_refused_in_the_words_of_torch_fx() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Branch(), [IMAGE])
    assert [d.code for d in caught.value.diagnostics] == ["T201"]
    assert caught.value.diagnostics[0].where == f"tests/ir/test_export.py:{line_of('return x if x.sum()')}"


class Counted(nn.Module):
    """The batch size is a constant of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = only_tensors(self.conv(x))
        return y.view(len([row for row in y]), -1)  # noqa: C416


def test_a_fixed_batch_size_is_refused() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Counted(), [IMAGE])
    assert [d.code for d in caught.value.diagnostics] == ["T202", "T208"]
    assert caught.value.diagnostics[1].render() == (
        "error[T208]: torch.export fixes the batch size at 2: forward makes a number of it\n"
        "  hint: read the batch size as x.shape[0] wherever forward needs it"
    )


class Fused(nn.BatchNorm2d):
    """A normalisation with its activation inside, as timm's BatchNormAct2d."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return self.act(y)


class Frozen(nn.Module):
    """Statistics that are never trained, as detectors have them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def test_a_functional_batch_norm_trains_where_the_original_does(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Fused(8), nn.Conv2d(8, 8, 1), Frozen(8), nn.Conv2d(8, 2, 1)).eval()
    program = trace(net, [IMAGE])
    assert program.route == "fx"
    kinds = {name: type(m) for name, m in program.module.named_modules()}
    assert kinds["1"] is nn.BatchNorm2d
    assert kinds["3"] is nn.Module
    model, x = emitted(cut(program), tmp_path), torch.rand(4, 3, 8, 8)
    model.train()(x)
    assert int(model.state_dict()["1.num_batches_tracked"]) == 1
