"""verify: whichever file is damaged is the one that is named; what agrees with its sum is held against the others."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pagcp_cli import compile_spec, load_spec
from pagcp_cli.sums import seal
from pagcp_cli.verifying import verify_folder
from specs.diagnostics import PagcpError
from tests.cli.test_plans import project
from tests.running import pagcp

FILES = (
    "SHA256SUMS",
    "evidence.json",
    "journal.jsonl",
    "model.onnx",
    "model.pt2",
    "model.py",
    "model.safetensors",
    "plan.json",
    "plan.safetensors",
    "report.html",
    "spec.lock.yaml",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result with every kind of file, and the spec beside it."""
    folder = tmp_path_factory.mktemp("whole")
    spec = load_spec(project(folder, "[pagcp: {grid: [0.25, 0.5]}]"), ["export=[python, pt2, onnx]"])
    compile_spec(spec, folder / "out")
    assert tuple(sorted(p.name for p in (folder / "out").iterdir())) == FILES
    return folder


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole / "out", tmp_path / "out"))


def test_what_was_written_holds(whole: Path, out: Path) -> None:
    (out / "notes.md").write_text("mine")
    found = verify_folder(out, load_spec(whole / "net.yaml"))
    assert list(found) == ["files", "plan", "evidence", "journal", "exports", "report", "original"]
    assert found["files"] == "every file is as it was written; not of the result: notes.md"
    assert found["exports"].endswith("their costs are the plan's")
    assert (
        subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=out, check=False).returncode == 0
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["first", "middle", "last", "gone", "longer"])
def test_any_damaged_file_is_the_one_that_is_named(out: Path, name: str, how: str) -> None:
    path = out / name
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "longer":
        path.write_bytes(bytes(data) + b"\n")
    else:
        data[{"first": 0, "middle": len(data) // 2, "last": -1}[how]] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(PagcpError) as caught:
        verify_folder(out)
    assert [(d.code, d.where) for d in caught.value.diagnostics] == [("E610", str(path))]
    assert caught.value.diagnostics[0].message.startswith(f"{name} is ")


def test_the_command_exits_1_and_names_the_file(out: Path) -> None:
    (out / "evidence.json").write_bytes((out / "evidence.json").read_bytes().replace(b"params", b"Params", 1))
    ran = pagcp("verify", out, "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["ok"] is False
    told = f"{out}/evidence.json  error[E610]: evidence.json is not as it was written\n"
    assert ran.err == told + "  hint: restore it, or compile anew\n"


def weights(out: Path) -> None:
    tensors = load_file(out / "model.safetensors")
    tensors["stem.weight"][0] *= 2
    save_file(tensors, out / "model.safetensors")


def narrower(out: Path) -> None:
    tensors = load_file(out / "plan.safetensors")
    save_file(tensors, out / "plan.safetensors", metadata={"plan": "0" * 64})


def edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edited(out: Path) -> None:
        data = json.loads((out / name).read_text())
        change(data)
        (out / name).write_text(json.dumps(data))

    return edited


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edited(out: Path) -> None:
        whole = (out / name).read_text()
        assert old in whole
        (out / name).write_text(whole.replace(old, new, 1))

    return edited


MIXED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "weights": (weights, "model.safetensors", "gives other outputs than model.pt2"),
    "code": (text("model.py", "torch.relu", "torch.tanh"), "model.safetensors", "gives other outputs than model.pt2"),
    "docstring": (text("model.py", "plan.json sha256: ", "plan.json sha256: 0"), "model.py", "of another plan"),
    "plan": (text("plan.json", '"macs": 1', '"macs": 2'), "plan.safetensors", "belongs to another plan"),
    "plan's form": (text("plan.json", "{\n", "{\n\n"), "plan.json", "not as we write it"),
    "beside": (narrower, "plan.safetensors", "belongs to another plan than plan.json"),
    "costs": (edit("evidence.json", lambda e: e["costs"]["after"].update(macs=1)), "evidence.json", "other costs"),
    "limits": (edit("evidence.json", lambda e: e["limits"].update(macs=10**9)), "evidence.json", "other limits"),
    "misses": (edit("evidence.json", lambda e: e["missed"].append("x")), "evidence.json", "other misses"),
    "verdict": (edit("evidence.json", lambda e: e["verdicts"][0].update(met=False)), "evidence.json", "other misses"),
    "widths": (edit("evidence.json", lambda e: e["decisions"][0].update(kept=1)), "evidence.json", "keeps 1 channels"),
    "proof": (edit("evidence.json", lambda e: e["verification"].update(error=1.0)), "evidence.json", "no proof"),
    "formats": (edit("evidence.json", lambda e: e["exports"].pop()), "evidence.json", "model.onnx is there"),
    "no evidence": (edit("evidence.json", lambda e: e.pop("costs")), "evidence.json", "it lacks costs"),
    "lock": (text("spec.lock.yaml", "macs: 60%", "macs: 70%"), "evidence.json", "other limits"),
    "no lock": (text("spec.lock.yaml", "version: 1", "version: 9"), "spec.lock.yaml", "cannot be read"),
    "network": (
        text("journal.jsonl", '"network": "sha256:', '"network": "sha256:0'),
        "journal.jsonl",
        "of another network",
    ),
    "records": (text("journal.jsonl", '{"kind": "pass_end"', "{"), "journal.jsonl", "has no record on line"),
}


@pytest.mark.parametrize("case", MIXED)
def test_files_that_contradict_each_other_are_named_though_their_sums_are_right(out: Path, case: str) -> None:
    change, name, told = MIXED[case]
    change(out)
    seal(out)
    with pytest.raises(PagcpError) as caught:
        verify_folder(out)
    assert all(d.code in ("E611", "L807") for d in caught.value.diagnostics)
    assert any(d.where == str(out / name) and told in d.message for d in caught.value.diagnostics), str(caught.value)


def test_another_network_than_the_specs_is_refused(whole: Path, out: Path, tmp_path: Path) -> None:
    tensors = load_file(whole / "net.safetensors")
    tensors["head.bias"][0] = torch.nextafter(tensors["head.bias"][0], torch.tensor(9.0))
    save_file(tensors, tmp_path / "other.safetensors")
    spec = load_spec(whole / "net.yaml", [f"model.weights={tmp_path / 'other.safetensors'}"])
    with pytest.raises(PagcpError, match="made for another network: its fingerprint is"):
        verify_folder(out, spec)
