"""Architectures that people prune, from `init` to a folder: each file is the same network, alone in an interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import pytest

from pagcp_cli import compile_spec, load_spec
from pagcp_cli.render import compile_report
from pagcp_cli.result import CompileResult
from pagcp_cli.sums import seal
from pagcp_cli.verifying import verify_folder
from specs.diagnostics import EmitError
from tests.running import EXAMPLES, pagcp

NETS = """
from torch import Tensor

from bench.zoo.cifar import cifar_resnet
from tests.ir.emit.public_nets import Detector, MobileNetV3, UNet, settled


class Strict(Detector):
    def forward(self, image):
        if type(image).__name__ not in ("Tensor", "FakeTensor", "FunctionalTensor"):
            raise TypeError(f"not a tensor: {type(image).__name__}")
        return super().forward(image)


def unet():
    return settled(UNet())


def detector():
    return settled(Strict())


def mobilenet():
    return settled(MobileNetV3())


def resnet20():
    return settled(cifar_resnet(20))
"""
FACTORIES = {
    "digits": ("digits:build", "1x1x8x8"),
    "resnet20": ("odd:resnet20", "1x3x16x16"),
    "unet": ("odd:unet", "1x3x16x16"),
    "detector": ("odd:detector", "1x3x32x32"),
    "mobilenet": ("odd:mobilenet", "1x3x32x32"),
}
FREE = {"unet"}
"""Those that take images of any size; digits has a linear layer on them, the detector was traced by torch.export."""
BATCH = ("export=[python, pt2, onnx: {opset: 18, dynamic: [batch]}]",)
GIVEN = {"resnet20": BATCH, "mobilenet": BATCH}
"""Where the spec says what is free, which takes half of the time."""


@dataclass(frozen=True)
class Written:
    out: Path
    result: CompileResult


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Written]:
    """Each network cut by the spec that `init` writes."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copy(EXAMPLES / "digits.py", folder)
    (folder / "odd.py").write_text(NETS)
    found = {}
    for name, (factory, shape) in FACTORIES.items():
        spec = folder / f"{name}.yaml"
        for words in (("init", factory, "--input", shape, "-o", spec.name), ("validate", spec.name)):
            ran = pagcp(*words, cwd=folder)
            assert (ran.code, ran.err) == (0, "")
        found[name] = Written(folder / name, compile_spec(load_spec(spec, GIVEN.get(name, ())), folder / name))
    return found


FRESH = """
import importlib.util, json, sys
from pathlib import Path

pickled = []
sys.addaudithook(lambda event, args: pickled.append(args) if event == "pickle.find_class" else None)
import torch

torch.set_num_threads(1)
leaves = torch.utils._pytree.tree_leaves


def far(a, b):
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(leaves(a), leaves(b), strict=True))


nets, found = {}, {}
for folder, (shape, free) in json.loads(sys.argv[1]).items():
    spec = importlib.util.spec_from_file_location("model", Path(folder) / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    nets[folder] = net = model.load()
    x = torch.randn(4, *shape[1:], generator=torch.Generator().manual_seed(1))
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def loss():
        torch.manual_seed(0)
        return sum(((y - 1) ** 2).mean() for y in leaves(net(x)))

    before = loss()
    before.backward()
    optimizer.step()
    trained = all(p.grad is not None for p in net.parameters())
    found[folder] = {"before": float(before), "after": float(loss()), "trained": trained}
alone = {"pickled": len(pickled), "modules": sorted({name.partition(".")[0] for name in sys.modules})}
import onnxruntime

for folder, (shape, free) in json.loads(sys.argv[1]).items():
    net = model = importlib.util.spec_from_file_location("model", Path(folder) / "model.py")
    model = importlib.util.module_from_spec(model)
    net.loader.exec_module(model)
    net = model.load()
    pt2 = torch.export.load(Path(folder) / "model.pt2").module()
    session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"), providers=["CPUExecutionProvider"])
    (name,) = [i.name for i in session.get_inputs()]
    shapes = [(batch, *shape[1:]) for batch in (1, 3)] + ([(2, shape[1], shape[2] + 16, shape[3])] if free else [])
    for size in shapes:
        x = torch.randn(size, generator=torch.Generator().manual_seed(len(found)))
        with torch.no_grad():
            expected = net(x)
            if size[2:] == tuple(shape[2:]):
                found[folder][f"pt2 {size[0]}"] = far(expected, pt2(x))
            key = f"onnx {'x'.join(map(str, size))}"
            found[folder][key] = far(expected, [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})])
print(json.dumps({**alone, "found": found}))
"""


@pytest.fixture(scope="module")
def fresh(written: Mapping[str, Written], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one new interpreter found of all of them."""
    shapes = {name: [int(size) for size in shape.split("x")] for name, (_, shape) in FACTORIES.items()}
    given = {str(made.out): [shapes[name], name in FREE] for name, made in written.items()}
    done = subprocess.run(
        [sys.executable, "-I", "-c", FRESH, json.dumps(given)],
        cwd=tmp_path_factory.mktemp("fresh"),
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_of_ours_is_imported_and_nothing_unpickled(fresh: dict[str, Any]) -> None:
    ours = {"specs", "passes", "pagcp_ir", "pagcp_cli", "bench", "tests", "digits", "odd", "safetensors", "onnx"}
    assert ours.isdisjoint(fresh["modules"])
    assert fresh["pickled"] == 0


@pytest.mark.parametrize("name", FACTORIES)
def test_all_files_are_one_network(name: str, written: Mapping[str, Written], fresh: dict[str, Any]) -> None:
    found = fresh["found"][str(written[name].out)]
    runs = {key: error for key, error in found.items() if key.startswith(("pt2 ", "onnx "))}
    assert len(runs) == (5 if name in FREE else 4)
    assert max(runs.values()) <= 1e-4, runs


@pytest.mark.parametrize("name", FACTORIES)
def test_a_step_of_training_lowers_the_loss(name: str, written: Mapping[str, Written], fresh: dict[str, Any]) -> None:
    found = fresh["found"][str(written[name].out)]
    assert found["trained"]
    assert found["after"] < found["before"]


@pytest.mark.parametrize("name", FACTORIES)
def test_verify_derives_it_anew(name: str, written: Mapping[str, Written]) -> None:
    found = verify_folder(written[name].out)
    assert found["exports"].startswith("python and pt2 and onnx agree within ")
    assert found["exports"].endswith("their costs are the plan's")
    after, before = written[name].result.plan.after, written[name].result.plan.before
    assert 0.3 < after.macs / before.macs <= 0.5


@pytest.mark.parametrize("name", FACTORIES)
def test_the_source_is_for_people(name: str, written: Mapping[str, Written]) -> None:
    text = (written[name].out / "model.py").read_text()
    assert max(map(len, text.splitlines())) <= 110
    forward = text[text.rindex("    def forward(") : text.index("def load(")]
    assert "getitem" not in forward
    assert "ModuleDict" not in text, "a gap where the original calls a module"
    assert forward.count("\n") < 45


def test_the_export_route_calls_the_modules_of_the_original(written: Mapping[str, Written]) -> None:
    text = (written["detector"].out / "model.py").read_text()
    assert "nn.SiLU(inplace=True)" in text
    assert "F.silu" not in text
    assert "neck = self.neck.cv2(torch.cat([a, b, b + self.neck.m(b)], 1))" in text


def test_onnx_says_where_it_came_from(written: Mapping[str, Written]) -> None:
    made = written["unet"]
    model = onnx.load(str(made.out / "model.onnx"))
    assert {each.key: each.value for each in model.metadata_props} == {
        "pagcp.version": version("pagcp"),
        "pagcp.plan_sha256": hashlib.sha256((made.out / "plan.json").read_bytes()).hexdigest(),
        "pagcp.source_fingerprint": made.result.plan.fingerprint,
        "pagcp.inputs": '{"image": [1, 3, 16, 16]}',
    }


def test_the_onnx_of_another_plan_is_found(written: Mapping[str, Written], tmp_path: Path) -> None:
    out = shutil.copytree(written["unet"].out, tmp_path / "out")
    model = onnx.load(str(out / "model.onnx"))
    (entry,) = (each for each in model.metadata_props if each.key == "pagcp.plan_sha256")
    entry.value = "0" * 64
    onnx.save(model, str(out / "model.onnx"))
    seal(out)
    with pytest.raises(EmitError, match=r"E611.*model.onnx says that it is of another plan than plan.json"):
        verify_folder(out)


def test_what_onnx_was_run_on_is_kept_and_told(written: Mapping[str, Written]) -> None:
    rows = json.loads((written["unet"].out / "evidence.json").read_text())["exports"]
    row = next(row for row in rows if row["format"] == "onnx")
    assert row["dynamic"] == ["batch", "height", "width"]
    assert [shape for shape, _ in row["runs"]] == ["1x3x16x16", "2x3x48x80", "3x3x16x16"]
    assert row["parity"] == max(error for _, error in row["runs"]) < 1e-4
    told = " ".join(compile_report(written["unet"].result).split())
    assert "on 1x3x16x16, 2x3x48x80, 3x3x16x16; opset 20; batch and height and width free" in told
    told = " ".join(compile_report(written["resnet20"].result).split())
    assert "on 1x3x16x16, 2x3x16x16, 3x3x16x16; opset 18; batch free (differences" in told
    told = " ".join(compile_report(written["detector"].result).split())
    assert "batch free; height and width fixed: at another image size the network does not run, or is another" in told
