"""Tracing: what works without rewriting the model, what is refused and in which words, what is left untouched."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.trace import trace
from specs.diagnostics import TraceError

IMAGE = TensorSpec((1, 3, 8, 8))


def same(model: nn.Module, program: Program, batch: int = 3) -> None:
    x = torch.rand(batch, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(program.module(x), model.eval()(x))


class C2f(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cv1 = nn.Conv2d(3, 8, 1)
        self.m = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.cv2 = nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class Shapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("shift", torch.rand(1, 4, 1, 1))

    def forward(self, x: Tensor, extra: Tensor | None = None) -> dict[str, object]:
        y = self.conv(x)
        b, c, h, w = y.shape
        assert c == 4
        assert len(y.shape) == 4
        for i in range(y.shape[1]):
            y = y + i
        if extra is not None:
            y = y * extra
        y = y * self.scale.view(1, -1, 1, 1) + self.shift
        y = F.dropout(y, 0.5, self.training)
        y = nn.Softmax(dim=2)(y)
        return {"map": y.view(b, c, h * w), "pair": (y.mean((2, 3)), None)}


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if y.sum() > 0:
            return y
        return -y


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.branch = Branch()

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(self.stem(x)) + 1


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize("model", [C2f(), Shapes(), Outer()], ids=lambda m: type(m).__name__)
def test_the_program_computes_what_the_model_computes(model: nn.Module) -> None:
    same(model, trace(model, [IMAGE]))


def test_sizes_stay_dynamic() -> None:
    program = trace(Shapes(), [IMAGE])
    assert program.run([torch.rand(5, 3, 6, 10)])["map"].shape == (5, 4, 60)


def test_functional_dropout_becomes_a_module_that_trains() -> None:
    module = trace(Shapes(), [IMAGE]).copy().train()
    assert [m.p for m in module.modules() if isinstance(m, nn.Dropout)] == [0.5]


def test_the_text_form() -> None:
    assert trace(C2f(), [IMAGE]).text() == (
        "x: f32[2, 3, 8, 8] = input\n"
        "cv1: f32[2, 8, 8, 8] = cv1: Conv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))(x)\n"
        "chunk: (f32[2, 4, 8, 8], f32[2, 4, 8, 8]) = .chunk(cv1, 2, 1)\n"
        "getitem: f32[2, 4, 8, 8] = getitem(chunk, 0)\n"
        "getitem_1: f32[2, 4, 8, 8] = getitem(chunk, 1)\n"
        "m_0: f32[2, 4, 8, 8] = m.0: Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))(getitem_1)\n"
        "m_1: f32[2, 4, 8, 8] = m.1: Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))(m_0)\n"
        "cat: f32[2, 16, 8, 8] = cat([getitem, getitem_1, m_0, m_1], 1)\n"
        "cv2: f32[2, 6, 8, 8] = cv2: Conv2d(16, 6, kernel_size=(1, 1), stride=(1, 1))(cat)\n"
        "return cv2\n"
    )


def line_of(text: str) -> int:
    with open(__file__, encoding="utf-8") as source:
        return next(number for number, line in enumerate(source, 1) if text in line)


def test_a_branch_on_data_is_refused_with_its_line() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Branch(), [IMAGE])
    assert str(caught.value) == (
        f"tests/ir/test_trace.py:{line_of('if y.sum() > 0')}  error[T201]: the control flow depends on data: "
        "a branch reads the value of `gt`\n"
        "  hint: compute both sides and select with torch.where, or move the branch out of forward"
    )


def test_a_sub_module_that_cannot_be_traced_is_kept_whole() -> None:
    program = trace(Outer(), [IMAGE])
    assert program.notes == (
        "branch: the control flow depends on data: a branch reads the value of `gt` "
        f"(tests/ir/test_trace.py:{line_of('if y.sum() > 0')})",
    )


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_inputs_must_fit(count: int) -> None:
    with pytest.raises(TraceError) as caught:
        trace(Two(), [IMAGE] * count)
    assert str(caught.value) == (
        f"error[T203]: Two.forward takes 2 inputs (x, y), got {count}\n"
        "  hint: give one shape per positional input under model.inputs, or wrap the model with model.adapter"
    )


def test_an_exception_in_forward_is_reported_with_its_line() -> None:
    with pytest.raises(TraceError) as caught:
        trace(C2f(), [TensorSpec((1, 4, 8, 8))])
    assert caught.value.diagnostics[0].code == "T202"
    assert caught.value.diagnostics[0].where == f"tests/ir/test_trace.py:{line_of('y = list(self.cv1(x)')}"


def test_the_model_is_left_as_it_was() -> None:
    model = Shapes().train()
    model.conv.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    trace(model, [IMAGE])
    assert model.training
    assert not model.conv.training
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_program_owns_its_tensors() -> None:
    model = C2f()
    program = trace(model, [IMAGE])
    with torch.no_grad():
        model.cv1.weight.zero_()
    assert program.tensors()["cv1.weight"].abs().sum() > 0


def test_data_parallel_is_unwrapped() -> None:
    assert trace(nn.DataParallel(C2f()), [IMAGE]).text() == trace(C2f(), [IMAGE]).text()


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        F.relu_(y)
        part = y[:, :2]
        part += 1
        z = y * 2 - torch.ones(4, 1, 1)
        self.relu(z)
        return z


def test_writes_in_place_are_kept() -> None:
    model = InPlace()
    same(model, trace(model, [IMAGE]))
    assert not [name for name in vars(model) if "constant" in name]


class Assigns(nn.Module):
    """Writes blocks of a mask that it makes, as shifted windows do, and a part of an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros((x.shape[2], x.shape[3]))
        for step in range(3):
            mask[step:-3, step : x.shape[3] - 3] = step
        y = self.b(self.a(x) * mask)
        y[:, 0] = 1
        y[:, 1:] += mask
        return y


def test_assignments_to_items_are_traced() -> None:
    model = Assigns()
    program = trace(model, [IMAGE])
    same(model, program)
    assert "setitem" in program.text()
    assert not program.notes


class Counts(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def test_a_graph_that_computes_something_else_is_refused() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Counts(), [IMAGE])
    assert str(caught.value) == (
        "error[T207]: the traced graph of Counts does not compute what the model computes\n"
        "  hint: look for writes into views of tensors and for state that forward changes"
    )


@torch.fx.wrap
def _wrapped_halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([x, x], 1), x * 2


class Wrapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        both, twice = _wrapped_halves(x)
        return both.sum(1, keepdim=True) + twice


def test_functions_wrapped_as_leaves_are_traced_time_and_again() -> None:
    first, second = trace(Wrapped(), [IMAGE]), trace(Wrapped(), [IMAGE])
    same(Wrapped(), first)
    assert "_wrapped_halves" not in first.text()
    assert first.text() == second.text()


class Remembers(nn.Module):
    """Keeps a grid of the last image size, as the heads of detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grid = nn.Conv2d(3, 8, 1), torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        h, w = y.shape[2:]
        if self.grid.shape[2:] != y.shape[2:]:
            axes = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            self.grid = torch.stack(axes).view(1, 2, h, w).float()
        return y[:, :2] + self.grid


def test_what_forward_keeps_is_given_back() -> None:
    model = Remembers()
    program = trace(model, [IMAGE])
    assert torch.equal(model.grid, torch.zeros(1))
    same(model, program)


class Samples(nn.Module):
    """Takes the samples one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.conv(x[i : i + 1])[0] for i in range(x.shape[0])])


def test_a_loop_over_samples_is_refused() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Samples(), [IMAGE])
    assert caught.value.diagnostics[0].render() == (
        "error[T208]: forward of Samples takes the batch size as a number: the graph would be right at 2 only\n"
        "  hint: read the batch size as x.shape[0] wherever forward needs it"
    )


class Checks(nn.Module):
    """torch.fx refuses it; torch.export does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, torch.Tensor):
            raise TypeError("no tensor")
        return self.drop(self.norm(self.conv(x)))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_in_training_is_traced_in_eval_on_every_route(compiled: bool) -> None:
    model = Checks().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    program = trace(torch.compile(model) if compiled else model, [IMAGE])
    assert program.route == "export"
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    same(model.eval(), program)


def test_a_module_with_a_forward_of_its_own_is_kept_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    plain = model[1].forward
    model[1].forward = lambda x: plain(x) * torch.arange(4.0).view(4, 1, 1)
    channels = analyse(trace(model, [IMAGE]))
    assert {pin.reason for pin in channels.pins} >= {"`1: Conv2d` has hooks and is kept whole"}
