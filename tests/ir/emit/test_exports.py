"""model.pt2 and model.onnx: parity, dynamic batch, no paths; all three artifacts agree in a fresh interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from pagcp_ir.emit import EXPORTERS, About, ExportReport
from pagcp_ir.emit import onnx as onnx_writer
from pagcp_ir.emit.base import error_of
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from specs.diagnostics import EmitError
from specs.exporting import OnnxOptions
from tests.ir.emit import emit_nets
from tests.ir.emit.conftest import ABOUT, Exported


def test_reports(exported: Exported) -> None:
    assert {k: r.files for k, r in exported.reports.items()} == {
        "python": ("model.py", "model.safetensors"),
        "pt2": ("model.pt2",),
        "onnx": ("model.onnx",),
    }
    for name, report in exported.reports.items():
        assert report.dynamic == (("batch", "height", "width") if name == "onnx" else ("batch",)), name
        assert report.note == "", name
        assert report.parity is not None
        assert report.parity < 1e-5, name


def test_exporters_are_silent(exported: Exported) -> None:
    assert exported.chatter == ""


def _bytes_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.iterdir():
        yield path.name, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    yield f"{path.name}:{member}", archive.read(member)


def test_no_file_names_a_place_on_this_machine(exported: Exported) -> None:
    places = {Path.cwd(), Path.home(), Path(torch.__file__).parents[1], Path(__file__).parents[3], exported.folder}
    needles = [str(place).encode() for place in places if len(place.parts) > 1] + [b"emit_nets.py"]
    seen = 0
    for name, data in _bytes_of(exported.folder):
        seen += 1
        assert [n for n in needles if n in data] == [], name
    assert seen > 10, "the members of model.pt2 were not read"


def test_onnx_is_one_readable_file(exported: Exported) -> None:
    model = onnx.load(str(exported.folder / "model.onnx"))
    onnx.checker.check_model(model)

    def shape(value: onnx.ValueInfoProto) -> list[int | str]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    image = ["batch", 1, "height", "width"]
    assert {v.name: shape(v) for v in model.graph.input} == {"image": image}
    assert {v.name: shape(v) for v in model.graph.output} == {"digit": ["batch", 10], "denoise": image}
    assert model.doc_string == "\n".join([ABOUT.title, *ABOUT.lines])
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not any(t.external_data for t in model.graph.initializer)


FRESH = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
import importlib.util
spec = importlib.util.spec_from_file_location("emitted", folder / "model.py")
emitted = importlib.util.module_from_spec(spec)
spec.loader.exec_module(emitted)
import torch
model = emitted.load()
roots = {name.partition(".")[0] for name in sys.modules}
image = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(4))
with torch.no_grad():
    expected = model(image)
    pt2 = torch.export.load(folder / "model.pt2").module()(image)
import onnxruntime
session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
onnx = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"image": image.numpy()})))
error = lambda a, b: float((a - b).abs().max() / a.abs().max())
print(json.dumps({
    "modules": sorted(roots),
    "pt2": max(error(expected[k], pt2[k]) for k in expected),
    "onnx": max(error(expected[k], torch.from_numpy(onnx[k])) for k in expected),
}))
"""


def test_artifacts_agree_in_a_fresh_interpreter(exported: Exported, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", FRESH, str(exported.folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ours = {"tests", "pagcp_ir", "pagcp_cli", "passes", "specs", "examples", "emit_nets", "safetensors", "onnx"}
    assert ours.isdisjoint(found["modules"])
    assert found["pt2"] < 1e-4
    assert found["onnx"] < 1e-4


@pytest.mark.parametrize("name", ["squeeze_excite", "decoder", "c2f"])
def test_pt2_of_other_graphs(name: str, tmp_path: Path) -> None:
    report = EXPORTERS["pt2"](emit_nets.program(name), tmp_path, ABOUT)
    assert report.dynamic == ("batch",)
    program = emit_nets.program(name)
    inputs = program.example_inputs(4, seed=3)
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        assert error_of(program.run(inputs), loaded(*inputs)) < 1e-5


def test_onnx_of_nested_outputs_and_buffers(tmp_path: Path) -> None:
    report = EXPORTERS["onnx"](emit_nets.program("decoder"), tmp_path, ABOUT)
    assert report.parity is not None
    assert report.parity < 1e-5
    model = onnx.load(str(tmp_path / "model.onnx"))
    assert [v.name for v in model.graph.input] == ["z"]
    assert [v.name for v in model.graph.output] == ["0"]


class FixedBatch(nn.Module):
    """Its view holds for a batch of two only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 4).sum(-1)


def test_a_fixed_batch_is_said(tmp_path: Path) -> None:
    program = trace(FixedBatch(), [TensorSpec((1, 4))])
    report = EXPORTERS["pt2"](program, tmp_path, About("Test"))
    assert report.dynamic == ()
    assert report.note.startswith("batch size fixed at 2: ")
    assert EXPORTERS["python"](program, tmp_path, About("Test")).dynamic == ()


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 3 if float(x.sum()) > 0 else x


@pytest.mark.parametrize("name", ["pt2", "onnx"])
def test_what_cannot_be_exported_leaves_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = trace(nn.Sequential(nn.Linear(4, 4), Branching()), [TensorSpec((1, 4))])
    with pytest.raises(EmitError) as caught:
        EXPORTERS[name](program, tmp_path, About("Test"))
    assert caught.value.diagnostics[0].code == "E605"
    assert "Could not guard on data-dependent expression" in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pt2", r"error\[E606\]: model.pt2 does not give the outputs of the network: relative error \d\.\d\de[-+]\d\d"),
        (
            "onnx",
            r"error\[E608\]: model.onnx differs from torch by \d\.\d\de[-+]\d\d of the output's scale, more than 1e-04",
        ),
    ],
)
def test_a_mismatch_leaves_nothing(name: str, message: str, tmp_path: Path) -> None:
    program = trace(Noise(), [TensorSpec((1, 4))])
    with pytest.raises(EmitError) as caught:
        EXPORTERS[name](program, tmp_path, About("Test"))
    assert re.fullmatch(message, str(caught.value))
    assert not list(tmp_path.iterdir())


def test_what_onnxruntime_cannot_run_is_refused(tmp_path: Path) -> None:
    program = trace(nn.Conv2d(1, 2, 3).double(), [TensorSpec((1, 1, 4, 4), torch.float64)])
    with pytest.raises(EmitError) as caught:
        EXPORTERS["onnx"](program, tmp_path, About("Test"))
    assert str(caught.value).startswith("error[E607]: the network cannot be exported to ONNX: NotImplemented: ")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


class Flat(nn.Module):
    """A linear layer on flattened images: their size is a number in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.fc = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))


class Wide(nn.Module):
    """Another network for images wider than 20."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * 2 if x.shape[3] > 20 else self.conv(x)


def onnx_with(model: nn.Module, folder: Path, **options: Any) -> ExportReport:
    program = trace(model, [TensorSpec((1, 1, 4, 4))])
    return onnx_writer.write(program, folder, About("Test"), OnnxOptions(**options))


def shape_of(folder: Path) -> list[int | str]:
    (given,) = onnx.load(str(folder / "model.onnx")).graph.input
    return [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]


@pytest.mark.parametrize("model", [Flat(), Wide()], ids=lambda m: type(m).__name__)
def test_images_of_one_size_alone(model: nn.Module, tmp_path: Path) -> None:
    why = "at another image size the network does not run, or is another"
    report = onnx_with(model, tmp_path)
    assert (report.dynamic, report.note) == (("batch",), f"height and width fixed: {why}")
    assert shape_of(tmp_path) == ["batch", 1, 4, 4]
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(EmitError) as caught:
        onnx_with(model, tmp_path, dynamic=("batch", "height", "width"))
    assert str(caught.value) == f"error[E617]: model.onnx cannot have a free height and width: {why}"
    assert not list(tmp_path.iterdir())


def test_a_file_that_fails_at_another_size_is_written_anew(tmp_path: Path) -> None:
    """torch.export lets the sizes be free as long as their product stays."""
    program = replace(trace(Flat(), [TensorSpec((1, 1, 4, 4))]), any_size=True)
    report = onnx_writer.write(program, tmp_path, About("Test"))
    assert report.dynamic == ("batch",)
    assert report.note.startswith("height and width fixed: ")
    assert "mat1 and mat2 shapes cannot be multiplied" in report.note
    assert shape_of(tmp_path) == ["batch", 1, 4, 4]


def test_opset_and_free_axes_are_those_asked_for(tmp_path: Path) -> None:
    report = onnx_with(nn.Conv2d(1, 2, 3), tmp_path, opset=19, dynamic=("batch", "width"))
    assert (report.opset, report.dynamic) == (19, ("batch", "width"))
    assert [shape for shape, _ in report.runs] == ["1x1x4x4", "2x1x4x68", "3x1x4x4"]
    assert {e.domain: e.version for e in onnx.load(str(tmp_path / "model.onnx")).opset_import}[""] == 19
    assert shape_of(tmp_path) == ["batch", 1, 4, "width"]
    assert onnx_with(nn.Conv2d(1, 2, 3), tmp_path, dynamic=()).dynamic == ()
    assert shape_of(tmp_path) == [1, 1, 4, 4]
