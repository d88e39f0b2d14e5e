"""model.py reads as a person would write it, equals the original, trains, and refuses what it cannot say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pagcp_ir.emit import EXPORTERS, About
from pagcp_ir.emit.base import error_of
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.trace import trace
from specs.diagnostics import EmitError
from tests.ir.emit import emit_nets
from tests.ir.emit.conftest import ABOUT, Exported

write = EXPORTERS["python"]


def load(folder: Path) -> Any:
    """The emitted module."""
    spec = importlib.util.spec_from_file_location("emitted_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def emit(model: nn.Module, folder: Path, *shapes: tuple[int, ...]) -> str:
    """Write the traced model and return the body of its class."""
    torch.manual_seed(0)
    write(trace(model, [TensorSpec(shape) for shape in shapes]), folder, About("Test"))
    text = (folder / "model.py").read_text()
    return text[text.rindex("    def __init__") : text.index("def load(")].rstrip()


@pytest.mark.parametrize("name", emit_nets.NETS)
def test_emitted_network_equals_the_original(name: str, tmp_path: Path) -> None:
    original = emit_nets.build(name)
    program = emit_nets.program(name)
    report = write(program, tmp_path, ABOUT)
    assert report.parity == 0.0
    assert report.files == ("model.py", "model.safetensors")
    loaded = load(tmp_path).load()
    inputs = program.example_inputs(5, seed=9)
    with torch.no_grad():
        assert error_of(original(*inputs), loaded(*inputs)) == 0.0


@pytest.mark.parametrize("name", ["multitask", "squeeze_excite", "c2f"])
def test_state_dict_is_that_of_the_original(name: str, tmp_path: Path) -> None:
    write(emit_nets.program(name), tmp_path, ABOUT)
    original, emitted = emit_nets.build(name).state_dict(), load(tmp_path).load().state_dict()
    assert sorted(emitted) == sorted(original)
    assert all(torch.equal(original[key], emitted[key]) for key in original)


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        write(emit_nets.program("decoder"), folder, ABOUT)
    for file in ("model.py", "model.safetensors"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def test_golden_text(exported: Exported, golden: Callable[[str, str], None]) -> None:
    golden("multitask_model.py.txt", (exported.folder / "model.py").read_text())


@pytest.mark.parametrize("name", emit_nets.NETS)
def test_text_is_formatted_and_has_no_unused_import(name: str, tmp_path: Path) -> None:
    write(emit_nets.program(name), tmp_path, ABOUT)
    for command in (["format", "--check", "--line-length=100"], ["check", "--select=E,F,I", "--line-length=100"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "model.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_emitted_network_trains(exported: Exported) -> None:
    torch.manual_seed(0)
    model = load(exported.folder).load().train()
    images, digits = torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,))
    assert not torch.equal(model(images)["digit"], model(images)["digit"]), "dropout does nothing"
    mean = model.stem[1].running_mean.clone()

    def loss() -> Tensor:
        out = model(images)
        return F.cross_entropy(out["digit"], digits) + F.mse_loss(out["denoise"], images)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    before = loss()
    before.backward()
    optimizer.step()
    assert not torch.equal(mean, model.stem[1].running_mean), "BatchNorm did not see the batch"
    assert all(p.grad is not None for p in model.parameters())
    model.drop.p = 0.0
    assert float(loss()) < float(before)
    model.eval()
    again = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    assert error_of(model(images[:3]), again(images[:3])) < 1e-5


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6, bias=False)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.fixed = nn.Linear(6, 4)
        self.fixed.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fixed(self.embed(x)))


def test_tied_and_frozen_parameters_stay_so(tmp_path: Path) -> None:
    assert emit(Tied(), tmp_path, (1, 4)) == TIED
    model = load(tmp_path).load()
    assert model.head.weight is model.embed.weight
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["fixed.weight"]


TIED = """\
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6, bias=False)
        self.fixed = nn.Linear(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.fixed.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fixed(self.embed(x)))"""


def test_a_sequential_stays_one(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sequential(nn.ReLU(), nn.Dropout(0.3)), nn.Flatten())
    assert emit(model, tmp_path, (1, 2, 4, 4)) == SEQUENTIAL
    assert isinstance(load(tmp_path).load(), nn.Sequential)


SEQUENTIAL = """\
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 4, 3),
            nn.Sequential(nn.ReLU(), nn.Dropout(0.3)),
            nn.Flatten(),
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input)"""


class OddNames(nn.Module):
    """Children of all kinds of names, and items of a list that the graph skips."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleDict({"a-b": nn.Conv2d(2, 4, 1), "max": nn.Conv2d(4, 4, 1)})
        self.steps = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        self.gains = nn.ParameterList([torch.rand(4, 1, 1), torch.rand(4, 1, 1)])

    def forward(self, max: Tensor) -> Tensor:
        x = self.paths["max"](self.paths["a-b"](max))
        return self.steps[1](x) * self.gains[0] + self.gains[1]


def test_odd_names_keep_their_place_in_the_state_dict(tmp_path: Path) -> None:
    original = OddNames()
    assert "self.steps = nn.ModuleDict({" in emit(original, tmp_path, (1, 2, 4, 4))
    used = {k: v for k, v in original.state_dict().items() if not k.startswith("steps.0")}
    emitted = load(tmp_path).load().state_dict()
    assert sorted(emitted) == sorted(used)
    assert all(torch.equal(used[key], emitted[key]) for key in used)


def test_order_of_evaluation_survives_writing_in_place(tmp_path: Path) -> None:
    """Operands that write into shared tensors must not move past those that read them."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    a = graph.call_function(torch.mul, (x, 1.0))
    b = graph.call_function(torch.exp, (a,))
    c = graph.call_method("add_", (a, 1.0))
    d = graph.call_function(torch.sub, (c, b))
    e = graph.call_method("mul_", (a, 2.0))
    f = graph.call_function(torch.div, (d, e))
    graph.output((f, a))
    program = Program(fx.GraphModule(nn.Module(), graph), (TensorSpec((1, 3)),))
    assert write(program, tmp_path, About("Test")).parity == 0.0


class Operators(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        n = x.shape[0]
        return (
            -(x**2),
            (-x) ** 2,
            x - (y - 1) - 2,
            x / (y * 3) / 2,
            (x > 0) & ~(y < 1),
            x[..., None, 1:][:, [0]],
            (x @ y.t()).view(n // 1, -1),
            2 ** (x * y),
            torch.clamp(x, max=float("inf")),
        )


def test_operators_bind_as_in_python(tmp_path: Path) -> None:
    text = emit(Operators(), tmp_path, (1, 4), (1, 4))
    for expression in (
        "-(x**2)",
        "(-x) ** 2",
        "x - (y - 1) - 2",
        "x / (y * 3) / 2",
        "(x > 0) & ~(y < 1)",
        "x[..., None, 1:][:, [0]]",
        "(x @ y.t()).view(x.shape[0] // 1, -1)",
        "2 ** (x * y)",
        'torch.clamp(x, max=float("inf"))',
    ):
        assert expression in text


class Tripled(nn.Module):
    """A module of the user's that cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 3 if float(x.sum()) > 0 else x


def unused_hook(*_: Any) -> None:
    """Returns nothing: changes nothing."""


def refusal(model: nn.Module, folder: Path) -> str:
    program = trace(model, [TensorSpec((1, 3, 4, 4))])
    with pytest.raises(EmitError) as caught:
        write(program, folder, About("Test"))
    assert not list(folder.iterdir()), "something is left behind"
    return caught.value.diagnostics[0].message


def test_refuses_modules_that_need_the_users_code(tmp_path: Path) -> None:
    message = refusal(nn.Sequential(nn.Conv2d(3, 3, 1), Tripled()), tmp_path)
    reason = "tests.ir.emit.test_python.Tripled is not a module of torch.nn"
    assert message == f"module 1 cannot be written as source: {reason}"


def test_refuses_modules_with_hooks(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    model[0].register_forward_hook(unused_hook)
    assert refusal(model, tmp_path) == "module 0 cannot be written as source: Conv2d has hooks"


def test_refuses_modules_that_do_not_follow_from_their_arguments(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    model[0].weight = nn.Parameter(torch.rand(2, 3, 1, 1))
    model[0].bias = None
    assert refusal(model, tmp_path) == (
        "module 0 cannot be written as source: Conv2d.weight is float32[2, 3, 1, 1], "
        "nn.Conv2d(3, 3, 1, bias=False) gives float32[3, 3, 1, 1]"
    )


@fx.wrap
def homemade(x: Tensor) -> Tensor:
    return x + 1


class CallsHomemade(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return homemade(x)


def test_refuses_functions_of_the_users(tmp_path: Path) -> None:
    module = fx.symbolic_trace(CallsHomemade())
    with pytest.raises(EmitError) as caught:
        write(Program(module, (TensorSpec((1, 3)),)), tmp_path, About("Test"))
    assert str(caught.value) == (
        "error[E602]: forward cannot be written as source: "
        "function tests.ir.emit.test_python.homemade is not part of torch, math or operator\n"
        "  hint: export pt2 and onnx only, or write this part with modules and functions of torch"
    )


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_a_mismatch_leaves_nothing(tmp_path: Path) -> None:
    message = refusal(Noise(), tmp_path)
    assert message.startswith("model.py does not give the outputs of the network: relative error ")


class ComplexBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.ones(4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.turn).real


def test_refuses_types_that_safetensors_lacks(tmp_path: Path) -> None:
    assert refusal(ComplexBuffer(), tmp_path) == "tensors of type torch.complex64 cannot be stored in safetensors"
