"""plan, apply, compile --check: the same plan without exports, the same bytes without a search, drift in CI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pagcp_cli import compile_spec, load_spec, read_plan
from pagcp_cli.applying import apply_spec
from pagcp_cli.driver import plan_spec
from specs.diagnostics import PagcpError
from tests.running import pagcp

NET = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.block_norm = nn.BatchNorm2d(8)
        self.neck = nn.Conv2d(8, 12, 1, bias=False)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.block_norm(self.block(x)))
        x = torch.relu(self.neck(x))
        return self.head(x.mean((2, 3)))


def build():
    return Net()


def datasets():
    made = {}
    for number, (name, size) in enumerate({"train": 40, "calibration": 30, "validation": 30, "test": 30}.items()):
        draw = torch.Generator().manual_seed(number)
        y = torch.rand(size, 3, generator=draw) + 5
        x = 0.1 * torch.randn(size, 1, 6, 6, generator=draw) + y.sum(1).view(-1, 1, 1, 1) - 15
        made[name] = TensorDataset(x, y)
    return made
"""
SPEC = """version: 1
model: {factory: net:build, weights: net.safetensors, inputs: [[1, 1, 6, 6]]}
data: {factory: net:datasets, batch_size: 10, calibration: {samples: 30}}
tasks:
  - {name: size, loss: mse_loss, metric: MeanAbsoluteError, guarantee: {at_most: 9}}
budgets: {macs: 60%}
passes: PASSES
export: [python]
"""
SEARCH = "pagcp: {grid: [0.25, 0.5, 0.75]}"
PASSES = {
    "uniform": "[uniform: {ratio: 0.5}]",
    "search": f"[{SEARCH}]",
    "rounds": f"[repeat: {{times: 2, passes: [{SEARCH}, finetune: {{epochs: 1}}]}}]",
    "recovered": f"[{SEARCH}, refit, finetune: {{epochs: 1}}]",
}
SELECTORS = ("uniform", "search")


def project(folder: Path, passes: str = PASSES["search"], more: str = "") -> Path:
    """A network of which compensation changes running means and gives `neck` a bias, with data and a task."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(NET)
    (folder / "net.yaml").write_text(SPEC.replace("PASSES", passes) + more)
    namespace: dict[str, Any] = {"__name__": "net"}
    exec(NET, namespace)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = trained(namespace["build"](), namespace["datasets"]()["train"])
    save_file(net.state_dict(), folder / "net.safetensors")
    return folder / "net.yaml"


def trained(net: torch.nn.Module, split: torch.utils.data.TensorDataset) -> torch.nn.Module:
    """So that outputs are far from zero, and means matter: compensation stays only where it helps."""
    x, y = split.tensors
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    return net.eval()


def same(one: Path, other: Path, *names: str) -> None:
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("passes", PASSES)
def test_plan_is_the_plan_of_compile(passes: str, tmp_path: Path) -> None:
    spec = load_spec(project(tmp_path, PASSES[passes]))
    compiled = compile_spec(spec, tmp_path / "compiled")
    planned = plan_spec(spec, tmp_path / "planned")
    same(tmp_path / "compiled", tmp_path / "planned", "plan.json", "spec.lock.yaml")
    assert "model.py" not in planned.files
    assert set(planned.files) == {p.name for p in (tmp_path / "planned").iterdir()}
    assert ("plan.safetensors" in planned.files) == (passes != "uniform") == bool(planned.plan.amended)
    assert compiled.plan == planned.plan
    epochs = '"kind": "epoch"' in (tmp_path / "planned" / "journal.jsonl").read_text()
    assert epochs == (passes == "rounds")  # what recovers after the last cut is left out


@pytest.mark.parametrize("passes", PASSES)
def test_apply_twice_gives_what_the_selectors_gave(passes: str, tmp_path: Path) -> None:
    spec = load_spec(project(tmp_path, PASSES[passes]))
    compile_spec(spec, tmp_path / "compiled")
    for name in ("a", "b"):
        result = apply_spec(tmp_path / "compiled" / "plan.json", spec, tmp_path / name)
    assert set(result.files) == {p.name for p in (tmp_path / "b").iterdir()}
    same(tmp_path / "a", tmp_path / "b", *result.files)
    same(tmp_path / "a", tmp_path / "compiled", "plan.json", *(["plan.safetensors"] if result.plan.amended else []))
    if passes in SELECTORS:  # nothing came after them
        same(tmp_path / "a", tmp_path / "compiled", "model.py", "model.safetensors")


def test_back_off_plans_what_compile_plans(tmp_path: Path) -> None:
    spec = load_spec(project(tmp_path, PASSES["recovered"]), ["on_miss=back_off"])
    compile_spec(spec, tmp_path / "compiled")
    plan_spec(spec, tmp_path / "planned")
    same(tmp_path / "compiled", tmp_path / "planned", "plan.json")
    assert '"kind": "epoch"' in (tmp_path / "planned" / "journal.jsonl").read_text()  # on which it depends


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its plan, searched on the command line."""
    folder = tmp_path_factory.mktemp("planned")
    ran = pagcp("plan", project(folder), cwd=folder)
    assert ran.code == 0, ran.err
    assert "MACs" in ran.out
    assert (folder / "out" / "net-plan" / "plan.safetensors").is_file()  # what compensation made
    return folder


@pytest.fixture
def copied(planned: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(planned, tmp_path / "p", ignore=shutil.ignore_patterns("__pycache__")))


def test_apply_refuses_another_checkpoint_and_names_the_fingerprint(copied: Path) -> None:
    tensors = load_file(copied / "net.safetensors")
    tensors["head.weight"][0, 0] = torch.nextafter(tensors["head.weight"][0, 0], torch.tensor(9.0))
    save_file(tensors, copied / "net.safetensors")
    plan = read_plan(copied / "out/net-plan/plan.json")
    for command in (
        ["apply", "out/net-plan", "net.yaml"],
        ["compile", "net.yaml", "--check", "out/net-plan/plan.json"],
    ):
        ran = pagcp(*command, cwd=copied)
        assert (ran.code, ran.out) == (1, "")
        told = "plan.json  error[L804]: the plan was made for another network: its fingerprint is "
        assert f"out/net-plan/{told}{plan.fingerprint}, this one's is sha256:" in ran.err
    assert sorted(p.name for p in (copied / "out").iterdir()) == ["net-plan"]


def test_apply_on_the_command_line(copied: Path) -> None:
    ran = pagcp("apply", "out/net-plan/plan.json", "net.yaml", "--json", cwd=copied)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["files"] == sorted(p.name for p in (copied / "out/net").iterdir())
    assert pagcp("verify", "out/net", cwd=copied).code == 0
    again = pagcp("apply", "out/net-plan/plan.json", "net.yaml", cwd=copied)
    assert (again.code, again.err.splitlines()[0]) == (2, "error[S119]: out/net holds an earlier result")


def refused(folder: Path) -> str:
    with pytest.raises(PagcpError) as caught:
        apply_spec(folder / "out/net-plan/plan.json", load_spec(folder / "net.yaml"), folder / "out/net")
    assert not (folder / "out/net").exists()
    return str(caught.value).replace(str(folder), "P")


def test_a_plan_without_its_tensors_is_refused(copied: Path) -> None:
    plan = copied / "out/net-plan/plan.json"
    beside = plan.with_suffix(".safetensors")
    tensors = load_file(beside)
    beside.unlink()
    named = ", ".join(f"`{name}`" for name in read_plan(plan).amended)
    assert refused(copied) == (
        f"P/out/net-plan/plan.json  error[L807]: the cut network holds {len(tensors)} tensors that are no slices of "
        f"the original's ({named}), and plan.safetensors is not there\n"
        "  hint: copy plan.safetensors, which was written beside plan.json, as plan.safetensors"
    )
    save_file(tensors, beside, metadata={"plan": "another"})
    assert refused(copied) == (
        "P/out/net-plan/plan.safetensors  error[L807]: it belongs to another plan than plan.json"
    )
    beside.write_bytes(b"{}")
    assert refused(copied).startswith("P/out/net-plan/plan.safetensors  error[L807]: it cannot be read: ")


def test_check_passes_while_the_plan_is_what_the_spec_gives(copied: Path) -> None:
    before = sorted(copied.rglob("*.*"))
    ran = pagcp("compile", "net.yaml", "--check", "out/net-plan/plan.json", "--annotate", cwd=copied)
    assert (ran.code, ran.out) == (0, "out/net-plan/plan.json is the plan of net.yaml\n")
    assert [p for p in sorted(copied.rglob("*.*")) if p.suffix != ".pyc"] == before


def test_check_says_what_drifted(copied: Path) -> None:
    plan = copied / "out/net-plan/plan.json"
    (copied / "plan.json").write_bytes(plan.read_bytes())
    ran = pagcp("compile", "net.yaml", "--check", "plan.json", "--annotate", "--set", "budgets.macs=45%", cwd=copied)
    assert ran.code == 1
    told = [line for line in ran.err.splitlines() if "[L809]" in line]
    after = read_plan(plan).after
    assert any("error[L809]: group `" in line and ", now " in line for line in told)
    assert any(f"costs after: {after.macs:,} MACs, {after.params} parameters; now " in line for line in told)
    shown = ran.out.splitlines()
    assert len(shown) == len(told)
    assert all(line.startswith("::error file=plan.json,title=pagcp L809::") for line in shown)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--check", "p.json", "--force"], "writes nothing: leave out -o, --force and --resume"),
        (["--annotate"], "belongs to --check, without --json"),
        (["--check", "p.json", "--annotate", "--json"], "belongs to --check, without --json"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], told: str) -> None:
    ran = pagcp("compile", "net.yaml", *options)
    assert ran.code == 2
    assert told in " ".join(ran.err.replace("│", " ").split())
