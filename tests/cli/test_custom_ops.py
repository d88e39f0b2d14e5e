"""A user's package with ops that nobody here knows: what touches them is pinned and named, the rest is cut exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagcp_cli.driver import CompileResult, compile_spec
from pagcp_cli.inspection import inspect_spec
from specs.diagnostics import EmitError
from specs.spec import load_spec
from tests.running import pagcp

KERNELS = '''
"""Two ops of our own: one registered with torch, one that leaves torch."""

import numpy as np
import torch
from torch import Tensor


@torch.library.custom_op("shop::sharpen", mutates_args=())
def sharpen(x: Tensor, amount: float) -> Tensor:
    return x + amount * (x - x.mean(1, keepdim=True))


@sharpen.register_fake
def _(x, amount):
    return torch.empty_like(x)


def ranked(x):
    return torch.from_numpy(np.sort(x.detach().cpu().numpy(), axis=1))


class Threshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        if not isinstance(x, Tensor):
            raise TypeError("a tensor is needed")
        return torch.where(x > x.mean(1, keepdim=True), x, x * 0.5)

    @staticmethod
    def backward(ctx, gradient):
        return gradient
'''

MODEL = '''
import torch
import torch.fx
from torch import nn

from shopnet.kernels import Threshold, ranked, sharpen

torch.fx.wrap("ranked")


class Gate(nn.Module):
    def forward(self, x):
        return Threshold.apply(x)


class Net(nn.Module):
    """Two branches; on each an op of our own follows its first convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.left, self.left_out = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 12, 3, padding=1)
        self.right, self.gate, self.right_out = nn.Conv2d(8, 10, 1), Gate(), nn.Conv2d(10, 12, 1)
        self.join, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        left = self.left_out(sharpen(self.left(x), 0.5))  # here
        right = self.right_out(self.second(self.right(x)))  # there
        return self.head(torch.relu(self.join(left + right)).mean((2, 3)))

    def second(self, x):
        return self.gate(x)


class Ranked(Net):
    def second(self, x):
        return ranked(x)  # by numpy
'''

SPEC = """version: 1
model:
  factory: shopnet.model:Net
  inputs: [[1, 3, 8, 8]]
passes:
  - uniform: {ratio: 0.5, criterion: l1}
export: [pt2]
"""

GATE = "`gate: Gate` is kept whole: TypeError: a tensor is needed (shopnet/kernels.py:LINE)"


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[Path]:
    package = tmp_path / "shopnet"
    package.mkdir()
    for name, text in (("__init__.py", ""), ("kernels.py", KERNELS), ("model.py", MODEL)):
        (package / name).write_text(text)
    (tmp_path / "net.yaml").write_text(SPEC)
    yield tmp_path / "net.yaml"
    for name in [n for n in sys.modules if n.partition(".")[0] == "shopnet"]:
        del sys.modules[name]


def line(text: str, comment: str) -> int:
    return next(number for number, code in enumerate(text.splitlines(), 1) if comment in code)


def compiled(spec: Path, *overrides: str) -> CompileResult:
    return compile_spec(load_spec(spec, overrides), spec.parent / "out", force=True)


def pins(spec: Path, *overrides: str) -> dict[str, list[str]]:
    found = inspect_spec(load_spec(spec, overrides))
    return {g.name: [f"{p.count} {p.reason} ({p.where})" for p in g.pins] for g in found.groups}


def test_exactly_what_touches_the_ops_is_pinned_and_named(spec: Path) -> None:
    gate = GATE.replace("LINE", str(line(KERNELS, "raise TypeError")))
    here, there = (f"(shopnet/model.py:{line(MODEL, text)})" for text in ("# here", "self.gate(x)"))
    assert pins(spec) == {
        "stem": [],
        "left": [f"6 `sharpen.default` is not in the op table {here}"],
        "left_out": [],
        "right": [f"10 {gate} {there}"],
        "join": [],
        "head": [f"4 graph output (shopnet/model.py:{line(MODEL, 'return self.head')})"],
    }


def test_a_function_that_leaves_torch(spec: Path) -> None:
    place = f"(shopnet/model.py:{line(MODEL, '# by numpy')})"
    found = pins(spec, "model.factory=shopnet.model:Ranked")
    assert found["right"] == [f"10 `ranked` is not in the op table {place}"]
    assert [name for name, reasons in found.items() if reasons] == ["left", "right", "head"]


def test_the_rest_is_cut_exactly_and_what_is_written_gives_the_same(spec: Path) -> None:
    result = compiled(spec)
    assert result.verification.status == "exact"
    assert {cut.group: (cut.width, len(cut.removed)) for cut in result.plan.cuts} == {
        "stem": (8, 4),
        "left_out": (12, 6),
        "join": (8, 4),
    }
    (written,) = result.exports
    assert (written.format, written.note) == ("pt2", "to load it, first import what registers shop::sharpen")
    assert written.parity is not None
    assert written.parity < 1e-6


LOAD = """
import sys, torch
{extra}
program = torch.export.load(sys.argv[1])
print(tuple(program.module()(torch.rand(3, 3, 8, 8)).shape))
"""


def test_the_note_of_the_artifact_is_true(spec: Path) -> None:
    ran = pagcp("compile", spec, "-o", spec.parent / "out")
    assert ran.code == 0
    assert "to load it, first import what registers shop::sharpen" in " ".join(ran.out.split())
    alone, registered = (loaded(spec, extra) for extra in ("", "import shopnet.kernels"))
    assert alone.returncode != 0
    assert "shop" in alone.stderr
    assert registered.stdout == "(3, 4)\n", registered.stderr


def loaded(spec: Path, extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOAD.format(extra=extra), str(spec.parent / "out" / "model.pt2")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(spec.parent)},
    )


HINT = "\n  hint: export pt2 and onnx only, or write this part with modules and functions of torch"


def refusal(spec: Path, *overrides: str) -> str:
    with pytest.raises(EmitError) as caught:
        compiled(spec, *overrides)
    assert not (spec.parent / "out").exists(), "something was written"
    return str(caught.value)


def test_source_that_needs_torch_alone_cannot_hold_them(spec: Path) -> None:
    here, there = (f"shopnet/model.py:{line(MODEL, text)}" for text in ("# here", "self.gate(x)"))
    assert refusal(spec, "export=[python]") == (
        f"{there}  error[E601]: module gate cannot be written as source: "
        f"shopnet.model.Gate is not a module of torch.nn{HINT}\n"
        f"{here}  error[E602]: forward cannot be written as source: "
        f"operator shop.sharpen.default does not come with torch{HINT}"
    )


def test_neither_can_onnx(spec: Path) -> None:
    here, there = (f"(shopnet/model.py:{line(MODEL, text)})" for text in ("# here", "self.gate(x)"))
    told = refusal(spec, "export=[onnx]")
    assert told.startswith("error[E607]: the network cannot be exported to ONNX: DispatchError: No ONNX function found")
    assert told.endswith(f"  hint: the network calls code of its own: `sharpen.default` {here}, `gate: Gate` {there}")


def test_what_torch_cannot_follow_is_in_no_artifact(spec: Path) -> None:
    here, there = (f"(shopnet/model.py:{line(MODEL, text)})" for text in ("# here", "# by numpy"))
    assert refusal(spec, "model.factory=shopnet.model:Ranked") == (
        "error[E605]: torch.export cannot export the network: RuntimeError: .numpy() is not supported for tensor "
        f"subclasses.\n  hint: the network calls code of its own: `sharpen.default` {here}, `ranked` {there}"
    )
