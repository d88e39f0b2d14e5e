"""compile on a small network: replay from plan.json alone, equal bytes, refusals, other people's folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pagcp_ir.rewrite
from pagcp_cli import compile_spec, load_spec
from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.program import Program
from specs.diagnostics import VerifyError
from specs.plan import indices
from tests.cli.projects import NET, SPEC, project, weights
from tests.running import ROOT, Ran, pagcp


def outputs(folder: Path, x: Tensor) -> Tensor:
    """What the emitted model gives, from the folder alone."""
    namespace: dict[str, object] = {"__name__": "model", "__file__": str(folder / "model.py")}
    exec((folder / "model.py").read_text(), namespace)
    load = namespace["load"]
    assert callable(load)
    with torch.no_grad():
        out: Tensor = load(folder / "model.safetensors").eval()(x)
    return out


def zeroed_original(plan: dict[str, object], x: Tensor) -> Tensor:
    """The original network with every slice that plan.json does not keep set to zero."""
    state = weights()
    tensors = plan["tensors"]
    assert isinstance(tensors, dict)
    for name, dims in tensors.items():
        for dim, kept in dims.items():
            gone = sorted(set(range(state[name].shape[int(dim)])) - set(indices(kept)))
            state[name].index_fill_(int(dim), torch.tensor(gone), 0)
    namespace: dict[str, object] = {}
    exec(NET, namespace)
    build = namespace["build"]
    assert callable(build)
    net = build(8)
    net.load_state_dict(state)
    with torch.no_grad():
        out: Tensor = net.eval()(x)
    return out


def test_plan_json_alone_reproduces_the_network(tmp_path: Path) -> None:
    compile_spec(load_spec(project(tmp_path)), tmp_path / "out")
    x = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    expected, found = zeroed_original(plan, x), outputs(tmp_path / "out", x)
    assert plan["tensors"]
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_two_runs_write_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        spec = project(tmp_path / name)
        ran = pagcp("compile", spec, "-o", tmp_path / name / "out", env={"PYTHONHASHSEED": str(len(name) + ord(name))})
        assert ran.code == 0, ran.err
    for file in ("plan.json", "model.py", "model.safetensors", "spec.lock.yaml"):
        assert (tmp_path / "a/out" / file).read_bytes() == (tmp_path / "b/out" / file).read_bytes(), file


def test_a_corrupted_index_is_refused_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = pagcp_ir.rewrite.materialise

    def wrong(program: Program, channels: ChannelGraph, keep: Keep) -> Program:
        group = next(g for g in channels.groups if not keep[g.units].all())
        kept, cut = np.flatnonzero(keep[group.units])[0], np.flatnonzero(~keep[group.units])[0]
        other = keep.copy()
        other[group.units[kept]], other[group.units[cut]] = False, True
        return right(program, channels, other)

    monkeypatch.setattr("passes.base.materialise", wrong)
    with pytest.raises(VerifyError, match="V501") as caught:
        compile_spec(load_spec(project(tmp_path)), tmp_path / "out")
    assert caught.value.exit_code == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == [
        "net.py",
        "net.safetensors",
        "net.yaml",
    ]


def test_all_pinned_lists_reason_and_line_per_group(tmp_path: Path) -> None:
    spec = project(tmp_path, SPEC.replace("  inputs:", "  protect: ['*']\n  inputs:"))
    ran = pagcp("compile", spec, "-o", tmp_path / "out")
    assert (ran.code, ran.out) == (1, "")
    assert not (tmp_path / "out").exists()
    assert ran.err == (
        "net.py:15  error[G301]: group `stem` (8 channels) is pinned: protected by `*`\n"
        "net.py:17  error[G301]: group `head` (3 channels) is pinned: graph output\n"
    )


def test_unmet_budget_is_written_and_exits_4(tmp_path: Path) -> None:
    spec = project(tmp_path, SPEC.replace("passes:", "budgets: {macs: 20%}\npasses:"))
    ran = pagcp("compile", spec, "-o", tmp_path / "out", "--json")
    assert ran.code == 4, ran.err
    result = json.loads(ran.out)
    assert result["ok"] is False
    assert [line.partition(":")[0] for line in result["missed"]] == ["budget macs"]
    assert json.loads((tmp_path / "out" / "evidence.json").read_text())["missed"] == result["missed"]
    told = pagcp("compile", spec, "-o", tmp_path / "out", "--force").out
    assert "\nhint: to cut more, give pagcp a larger total or tolerance" in told


def test_budget_out_of_reach_is_refused(tmp_path: Path) -> None:
    spec = project(tmp_path, SPEC.replace("passes:", "budgets: {macs: 0.1%}\npasses:"))
    ran = pagcp("compile", spec, "-o", tmp_path / "out")
    assert ran.code == 1
    assert "error[P401]: the budgets are out of reach" in ran.err
    assert not (tmp_path / "out").exists()


def test_an_earlier_result_is_not_overwritten(tmp_path: Path) -> None:
    spec = project(tmp_path)
    result = compile_spec(load_spec(spec), tmp_path / "out")
    before = (tmp_path / "out" / "plan.json").read_bytes()
    ran = pagcp("compile", spec, "-o", tmp_path / "out", "--set", "passes=[{uniform: {ratio: 0.25}}]")
    assert ran.code == 2
    assert "--force replaces it" in ran.err
    assert (tmp_path / "out" / "plan.json").read_bytes() == before
    assert set(result.files) == {p.name for p in (tmp_path / "out").iterdir()}


def own_packages(folder: Path) -> Path:
    """A project that has its own `specs/` and `passes/`, imported by its own code."""
    spec = project(folder / "specs", net="from helpers import WIDTH\n" + NET.replace("width=8", "width=WIDTH"))
    (folder / "specs" / "helpers.py").write_text("WIDTH = 8\n")
    for package in ("specs", "passes", "pagcp_ir"):
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.py").write_text("raise ImportError('this is the user\\'s package')\n")
    return spec


def run_module(*arguments: str | Path, cwd: Path) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "pagcp_cli", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("as_module", [False, True])
def test_inside_a_project_with_packages_of_our_names(tmp_path: Path, as_module: bool) -> None:
    spec = own_packages(tmp_path).relative_to(tmp_path)
    run = run_module if as_module else pagcp
    ran = run("compile", spec, "-o", "out", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert (tmp_path / "out" / "model.py").is_file()


def test_no_emitted_file_names_a_path(tmp_path: Path) -> None:
    compile_spec(load_spec(project(tmp_path)), tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        content = file.read_bytes()
        for path in (str(tmp_path), str(ROOT), str(Path.home()), sys.prefix):
            assert path.encode() not in content, file.name
