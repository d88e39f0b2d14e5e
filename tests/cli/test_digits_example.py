"""The digits example as a user compiles it: all is met, every file is there, every export is the same network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pagcp_cli import diff
from tests.conftest import Compiled
from tests.running import EXAMPLES, ROOT, pagcp

FILES = {
    "plan.json",
    "SHA256SUMS",
    "evidence.json",
    "report.html",
    "spec.lock.yaml",
    "journal.jsonl",
    "model.py",
    "model.safetensors",
    "model.pt2",
    "model.onnx",
}

FRESH = """
import importlib.util, json, sys
import numpy as np, onnxruntime, torch
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location("model", folder + "/model.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
net = module.load(folder + "/model.safetensors").eval()
x = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    ours = net(x)
    program = torch.export.load(folder + "/model.pt2").module()(x)
session = onnxruntime.InferenceSession(folder + "/model.onnx")
onnx = dict(zip([o.name for o in session.get_outputs()], session.run(None, {session.get_inputs()[0].name: x.numpy()})))
far = {
    name: max(float((ours[name] - program[name]).abs().max()), float(np.abs(ours[name].numpy() - onnx[name]).max()))
    for name in ours
}
print(json.dumps({"far": far, "modules": sorted(sys.modules)}))
"""


def test_exits_0_and_meets_everything(digits: Compiled) -> None:
    assert digits.ran.code == 0, digits.ran.err
    evidence = json.loads((digits.out / "evidence.json").read_text())
    assert evidence["missed"] == []
    assert {v["task"]: (v["met"], v["split"]) for v in evidence["verdicts"]} == {
        "digit": (True, "test"),
        "denoise": (True, "test"),
    }
    worst = {v["task"]: v["dense"] - v["recovered"] for v in evidence["verdicts"]}
    assert worst["digit"] <= 0.01 + 1e-9
    assert worst["denoise"] <= 0.5 + 1e-9
    before, after = evidence["costs"]["before"], evidence["costs"]["after"]
    assert after["macs"] <= 0.4 * before["macs"]
    assert after["params"] <= 0.4 * before["params"]


def test_report_fits_80_columns_and_names_what_counts(digits: Compiled) -> None:
    lines = digits.ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    text = digits.ran.out
    for word in (
        "dense",
        "pruned",
        "recovered",
        "allowed",
        "margin",
        "drop",
        "test",
        "MACs",
        "params",
        "bytes",
        "budget",
        "verified",
        "onnx",
    ):
        assert word in text
    assert "\x1b" not in text
    assert "\x1b" not in digits.ran.err


def test_folder_holds_every_file_and_no_path(digits: Compiled) -> None:
    assert {p.name for p in digits.out.iterdir()} == FILES
    for file in digits.out.iterdir():
        content = file.read_bytes()
        for path in (str(ROOT), str(digits.out.parent), str(Path.home()) + "/", sys.prefix):
            assert path.encode() not in content, (file.name, path)


def test_exports_are_one_network_in_a_fresh_interpreter(digits: Compiled, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", FRESH, str(digits.out)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["far"]) == {"digit", "denoise"}
    assert max(found["far"].values()) <= 1e-4
    ours = {"specs", "passes", "pagcp_ir", "pagcp_cli", "digits"}
    assert not {name.partition(".")[0] for name in found["modules"]} & ours


def test_plan_has_tensors_and_costs(digits: Compiled) -> None:
    text = (digits.out / "plan.json").read_text()
    plan = json.loads(text)
    assert set(plan["costs"]) == {"before", "after"}
    assert all(set(costs) == {"macs", "params", "bytes"} for costs in plan["costs"].values())
    assert plan["tensors"]["encoder.block.first.0.weight"].keys() == {"0", "1"}
    assert "." not in "".join(str(n) for n in plan["costs"]["after"].values())


def test_lock_resolves_the_spec(digits: Compiled) -> None:
    lock = yaml.safe_load((digits.out / "spec.lock.yaml").read_text())
    assert set(lock["versions"]) == {"pagcp", "python", "torch"}
    assert len(lock["weights"]["sha256"]) == 64
    assert lock["spec"]["passes"][0]["pagcp"]["max_ratio"] == 0.95  # a default, written out


def test_diff_of_original_and_result(digits: Compiled, tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    assert pagcp("inspect", EXAMPLES / "digits.yaml", "--plan", empty).code == 0
    ran = pagcp("diff", empty, digits.out)
    assert ran.code == 0, ran.err
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "encoder.down.0" in ran.out
    assert " -> " in ran.out
    as_json = json.loads(pagcp("diff", empty, digits.out, "--json").out)
    assert as_json == json.loads(json.dumps(diff(empty, digits.out).to_dict()))
    assert as_json["after"] == json.loads((digits.out / "plan.json").read_text())["costs"]["after"]


def test_diff_of_the_program_equals_that_of_the_plan(digits: Compiled, tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    assert pagcp("inspect", EXAMPLES / "digits.yaml", "--plan", empty).code == 0
    assert diff(empty, digits.out / "model.pt2").to_dict() == diff(empty, digits.out).to_dict()


@pytest.mark.parametrize("word", ["pagcp: started", "finetune: done", "encoder.down.0 at"])
def test_progress_is_plain_lines_on_stderr(digits: Compiled, word: str) -> None:
    assert word in digits.ran.err
