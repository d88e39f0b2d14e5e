"""Networks given as .pt2 files: no factory, the same pipeline, and plain words for files that cannot be used."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export.pt2_archive._package import package_pt2

from pagcp_cli.driver import compile_spec
from pagcp_cli.inspection import inspect_spec
from pagcp_cli.network import open_network
from specs.diagnostics import TraceError
from specs.spec import load_spec
from tests.cli.projects import NET, SPEC, project, weights
from tests.running import pagcp

PROGRAM = SPEC.replace("  factory: net:build\n  args: {width: 8}\n  weights: net.safetensors\n", "  program: net.pt2\n")
ADAPTER = """
from torch import nn


class Cropped(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"logits": self.net(x[:, :, :6])}
"""


def network() -> nn.Module:
    namespace: dict[str, object] = {}
    exec(NET, namespace)
    net = namespace["build"](8)  # type: ignore[operator]
    net.load_state_dict(weights(), strict=False)
    return net.eval()


def exported(net: nn.Module, batch: int = 2, dynamic: bool = True) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    return torch.export.export(net, (torch.rand(batch, 1, 6, 6),), dynamic_shapes=shapes)


def given(folder: Path, program: torch.export.ExportedProgram, spec: str = PROGRAM) -> Path:
    """A folder with the program and its spec, and nothing else."""
    folder.mkdir(exist_ok=True)
    torch.export.save(program, folder / "net.pt2")
    (folder / "net.yaml").write_text(spec)
    return folder / "net.yaml"


def test_the_same_cuts_as_from_the_factory(tmp_path: Path) -> None:
    one = compile_spec(load_spec(project(tmp_path / "a")), tmp_path / "one")
    two = compile_spec(load_spec(given(tmp_path / "b", exported(network()))), tmp_path / "two")
    assert one.plan.cuts == two.plan.cuts
    assert one.plan.after == two.plan.after
    assert one.plan.tensors == two.plan.tensors
    a, b = (load_file(tmp_path / out / "model.safetensors") for out in ("one", "two"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert "self.norm = nn.BatchNorm2d(" in (tmp_path / "two" / "model.py").read_text()


def test_the_lock_and_inspect_know_the_file(tmp_path: Path) -> None:
    spec = given(tmp_path, exported(network()))
    lock = yaml.safe_load((compile_spec(load_spec(spec), tmp_path / "out").out / "spec.lock.yaml").read_text())
    assert lock["weights"]["file"] == "net.pt2"
    assert len(lock["weights"]["sha256"]) == 64
    assert lock["spec"]["model"]["program"] == "net.pt2"
    assert "stem" in [group.name for group in inspect_spec(load_spec(spec)).groups]
    program = open_network(load_spec(spec))[0]
    assert program.route == "pt2"
    assert open_network(load_spec(spec))[0].text() == program.text()


def test_from_the_command_line_twice(tmp_path: Path) -> None:
    """What was pruned is pruned again from its own model.pt2."""
    spec = given(tmp_path, exported(network()), PROGRAM.replace("export: [python]", "export: [python, pt2]"))
    assert pagcp("compile", spec, "-o", tmp_path / "out").code == 0
    spec.write_text(spec.read_text().replace("net.pt2", "out/model.pt2"))
    ran = pagcp("compile", spec, "-o", tmp_path / "again", "--json")
    assert ran.code == 0, ran.err
    costs = json.loads(ran.out)["costs"]
    assert costs["before"] == json.loads((tmp_path / "out" / "evidence.json").read_text())["costs"]["after"]
    assert costs["after"]["macs"] < costs["before"]["macs"]


def test_an_adapter_wraps_the_program(tmp_path: Path) -> None:
    spec = given(tmp_path, exported(network()), PROGRAM.replace("1, 6, 6", "1, 9, 6"))
    spec.write_text(spec.read_text().replace("passes:", "  adapter: net:Cropped\npasses:", 1))
    (tmp_path / "net.py").write_text(ADAPTER)
    program = open_network(load_spec(spec))[0]
    assert program.route == "pt2"
    assert "net.stem.weight" in program.tensors()


def test_decomposed_programs_are_read(tmp_path: Path) -> None:
    """Core ATen: convolution, addmm, native_batch_norm."""
    program = exported(network()).run_decompositions()
    result = compile_spec(load_spec(given(tmp_path, program)), tmp_path / "out")
    assert result.plan.after.macs < 0.5 * result.plan.before.macs
    assert "self.norm = nn.BatchNorm2d(" in (tmp_path / "out" / "model.py").read_text()


def test_a_batch_size_that_no_operation_names_is_free(tmp_path: Path) -> None:
    spec = given(tmp_path, exported(network(), 1, dynamic=False))
    assert compile_spec(load_spec(spec), tmp_path / "out").verification.status == "exact"


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(x.shape[0], -1)


def refused(spec: Path) -> str:
    """What compile says, after validate found nothing wrong with the spec."""
    read = load_spec(spec)
    with pytest.raises(TraceError) as caught:
        open_network(read)
    assert all(d.where == f"{spec}:3:12" for d in caught.value.diagnostics)
    return "\n".join(d.render() for d in caught.value.diagnostics).replace(f"{spec}:3:12  ", "")


def test_a_fixed_batch_size_is_refused(tmp_path: Path) -> None:
    assert refused(given(tmp_path, exported(Flat().eval(), 1, dynamic=False))) == (
        "error[T208]: net.pt2 runs at batch size 1 only\n"
        "  hint: export it with dynamic_shapes={'x': {0: torch.export.Dim.DYNAMIC}}"
    )


def test_train_mode_is_refused(tmp_path: Path) -> None:
    assert refused(given(tmp_path, exported(network().train()))) == (
        "error[T209]: net.pt2 was exported in train mode: `batch_norm` is batch_norm in training\n"
        "  hint: call model.eval() before torch.export.export"
    )


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    spec = given(tmp_path, exported(network()), PROGRAM.replace("1, 6, 6", "1, 8, 6"))
    assert refused(spec) == (
        "error[T203]: net.pt2 takes float32 [2, 1, 6, 6] as x, got float32 [1, 1, 8, 6]\n"
        "  hint: write the shape that it was exported with under model.inputs"
    )
    spec.write_text(PROGRAM.replace("[[1, 1, 6, 6]]", "[[1, 1, 6, 6], [1, 2]]"))
    assert refused(spec) == (
        "error[T203]: net.pt2 takes 1 inputs (x), got 2\n  hint: give one shape per input under model.inputs"
    )


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    spec = given(tmp_path, exported(network()))
    whole = (tmp_path / "net.pt2").read_bytes()
    (tmp_path / "net.pt2").write_bytes(b"weights")
    assert refused(spec) == (
        "error[T209]: net.pt2 is not a torch.export program: BadZipFile: File is not a zip file\n"
        "  hint: write it with torch.export.save(torch.export.export(model.eval(), inputs), path)"
    )
    (tmp_path / "net.pt2").write_bytes(whole[: len(whole) // 2])
    assert refused(spec).startswith("error[T209]: net.pt2 is not a torch.export program: ")
    torch.save({"a": torch.rand(2)}, tmp_path / "net.pt2")
    assert refused(spec).startswith("error[T209]: net.pt2 is not a torch.export program of this version of torch\n")
    package_pt2(tmp_path / "net.pt2", exported_programs={"a": exported(network()), "b": exported(network())})
    assert refused(spec) == (
        "error[T209]: net.pt2 holds several programs: a, b\n"
        "  hint: save the one that is to be pruned with torch.export.save"
    )


class Surprise:
    """Pickled, it is a call."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)

    path: ClassVar[Path]


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    Surprise.path = tmp_path / "touched"
    spec = given(tmp_path, exported(network()))
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    buffer = io.BytesIO()
    torch.save(((Surprise(),), {}), buffer)
    files["net/data/sample_inputs/model.pt"] = buffer.getvalue()
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert refused(spec).startswith("error[T209]: net.pt2 holds pickled objects\n")
    assert not Surprise.path.exists()


def test_missing_files_are_found_by_validate(tmp_path: Path) -> None:
    spec = given(tmp_path, exported(network()))
    (tmp_path / "net.pt2").unlink()
    ran = pagcp("validate", spec)
    assert ran.code == 2
    assert "error[S112]: model.program: there is no file net.pt2" in ran.err
    assert sys.modules.get("net") is None
