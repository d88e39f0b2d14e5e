"""Refusals of what is given beside the model: tensors, files, export options and races. Their exact words.

The walk that asks for them is in test_reasons.py.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from pagcp_ir.emit import About, ExportReport
from pagcp_ir.emit import onnx as onnx_writer
from pagcp_ir.program import TensorSpec
from pagcp_ir.summary import summary_of_pt2
from pagcp_ir.timing.inputs import onnx_inputs
from pagcp_ir.timing.race import Given, Job, race
from pagcp_ir.trace import trace
from pagcp_ir.usable import require_usable
from specs.diagnostics import EmitError, PagcpError
from specs.exporting import OnnxOptions


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.transpose(2, 3)


class Kernel(nn.Module):
    """Its kernel is the image: a size that torch.export takes as a number."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, x.shape[2:])


# pagcp_ir/emit


def written(module: nn.Module, shape: tuple[int, ...], options: OnnxOptions | None = None) -> ExportReport:
    return onnx_writer.write(trace(module, [TensorSpec(shape)]), Path(), About("Test"), options)


def free(module: nn.Module, *shape: int) -> ExportReport:
    return written(module, shape, OnnxOptions(dynamic=("batch", "height", "width")))


def an_old_opset() -> None:
    """A spec cannot ask for it, a caller can."""
    written(nn.ReLU(), (1, 3), OnnxOptions.model_construct(opset=9, dynamic=()))


# pagcp_ir/program_file.py


def pickled() -> None:
    with zipfile.ZipFile("net.pt2", "w") as archive:
        archive.writestr("net/data/constants/object.pt", b"")
    summary_of_pt2("net.pt2")


# pagcp_ir/timing


def taken(kind: int, shape: list[int] | None, batch: int | None = None) -> None:
    """Read the inputs of net.onnx, which has one of that type and shape."""
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "net", [x], [y])
    onnx.save(helper.make_model(graph), "net.onnx")
    onnx_inputs(Path("net.onnx"), {}, batch)


def damaged() -> None:
    Path("net.onnx").write_bytes(b"nothing")
    race([Job("onnxruntime", Path("net.onnx"), ())])


# pagcp_ir/usable.py


def usable(*tensors: Tensor) -> None:
    require_usable([(f"{n}.weight", tensor) for n, tensor in enumerate(tensors)], [], "net.yaml:2:1")


DIVERGED = "the training diverged, or the file is damaged: take an earlier checkpoint"
NAN = f"net.yaml:2:1  error[T211]: {{n}}.weight holds NaN, in 2 of 2 values\n  hint: {DIVERGED}\n"
BACK = "the factory may end with model.float(), and the result be converted back: load().bfloat16()"

REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "free sizes without an image": (
        lambda: free(nn.ReLU(), 1, 3),
        "error[E617]: model.onnx cannot have a free height and width: no input is an image [N, C, H, W]",
    ),
    "free sizes of a square": (
        lambda: free(Square(), 1, 1, 128, 128),
        "error[E617]: model.onnx cannot have a free height and width: the graph takes squares alone",
    ),
    "an old opset": (
        an_old_opset,
        "error[E607]: torch's exporter wrote opset 18 for 9\n  hint: write opset: 18",
    ),
    "a summary of pickled objects": (
        pickled,
        "net.pt2  error[E609]: torch.export cannot load the program: it holds pickled objects\n"
        f"  hint: a .pt2 file belongs to the torch version that wrote it; this is {torch.__version__}",
    ),
    "an input of text": (
        lambda: taken(TensorProto.STRING, [1]),
        "net.onnx  error[S122]: the input x is no tensor of numbers that can be made up",
    ),
    "an input without sizes": (
        lambda: taken(TensorProto.FLOAT, None),
        "net.onnx  error[S122]: the input x has no sizes\n"
        "  hint: give the shape of each input: --input NAME=1x3x224x224",
    ),
    "another batch size": (
        lambda: taken(TensorProto.FLOAT, [2, 3], batch=1),
        "net.onnx  error[S122]: the input x has the sizes 2x3, not 1 on axis 0\n"
        "  hint: its batch size is fixed: --batch 2",
    ),
    "a file that does not run": (
        damaged,
        "net.onnx  error[E613]: onnxruntime cannot run it: [ONNXRuntimeError] : 7 : INVALID_PROTOBUF : ...",
    ),
    "a parameter in half precision": (
        lambda: usable(torch.ones(2).half()),
        "net.yaml:2:1  error[T210]: 0.weight is float16: networks are measured, proven and trained in float32\n"
        f"  hint: {BACK}",
    ),
    "parameters in half precision": (
        lambda: usable(torch.ones(2), torch.ones(2).bfloat16(), torch.ones(2).bfloat16(), torch.ones(2).bfloat16()),
        "net.yaml:2:1  error[T210]: 1.weight and 2 more parameters are bfloat16: networks are measured, proven and "
        f"trained in float32\n  hint: {BACK}",
    ),
    "a complex parameter": (
        lambda: usable(torch.ones(2, dtype=torch.complex64)),
        "net.yaml:2:1  error[T210]: 0.weight is complex64: networks are measured, proven and trained in float32\n"
        "  hint: keep real and imaginary part as two parameters (torch.view_as_real)",
    ),
    "many tensors of NaN": (
        lambda: usable(*[torch.full((2,), torch.nan)] * 11),
        "".join(NAN.format(n=n) for n in range(8)) + "net.yaml:2:1  error[T211]: 3 more tensors are not finite",
    ),
}
"""Name: the call, and what it says. (What onnxruntime says, after ..., is onnxruntime's.)"""


@pytest.mark.parametrize("name", REFUSALS)
def test_the_refusal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused, text = REFUSALS[name]
    with pytest.raises(PagcpError) as caught:
        refused()
    told = str(caught.value)
    assert told == text or (text.endswith("...") and told.startswith(text.removesuffix("...")))


def test_the_note_of_sizes_that_became_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = written(Kernel(), (1, 1, 4, 4))
    assert (report.dynamic, report.note) == (("batch",), "height and width fixed: the graph makes numbers of them")


@pytest.mark.parametrize(
    ("dies_in", "name"),
    [("onnxruntime.py", "x"), ("sitecustomize.py", "x" * 1_000_000)],
    ids=["before it answers", "before it has read a job longer than the pipe"],
)
def test_a_process_that_ends(dies_in: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / dies_in).write_text("import os\nos._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EmitError) as caught:
        race([Job("onnxruntime", Path("net.onnx"), (Given(name, (1,)),))])
    assert str(caught.value) == "net.onnx  error[E613]: onnxruntime cannot run it: the process ended"
