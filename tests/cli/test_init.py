"""`pagcp init`: the spec it writes is valid and compiles, with uniform as it stands, and says what was found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pagcp_cli import compile_spec, load_spec
from pagcp_cli.main import app
from tests.cli.projects import NET, project
from tests.running import EXAMPLES, Ran

HEADS = """
import torch
from torch import nn

from bench.zoo.cifar import cifar_resnet


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.aux = nn.Module()
        self.aux.first, self.aux.last = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 2, 1)
        self.far = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return [self.far(x.mean((2, 3))), {"map": self.aux.last(torch.relu(self.aux.first(x)))}]


def build():
    return Heads()


def resnet20():
    return cifar_resnet(20)


def stiff():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(1))
"""


def run(folder: Path, *arguments: str | Path) -> Ran:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, ["init", *map(str, arguments)], env={"COLUMNS": "80"})
    return Ran(done.exit_code, done.stdout, done.stderr)


def heads(folder: Path) -> Path:
    (folder / "net.py").write_text(HEADS)
    return folder


def uncommented(text: str) -> str:
    """The spec with its data, tasks, protected heads and second list of passes in force, the first list gone."""
    head, _, rest = text.partition("budgets:")
    head = head.replace("  # protect:", "  protect:").replace("  #   - ", "    - ")
    lines = rest.partition("# What was found")[0].splitlines()
    begin = lines.index("# data:")
    sections = [line[2:] for line in lines[begin:] if line.startswith("# ") and not line.startswith("# Then")]
    return "\n".join([head, f"budgets:{lines[0]}", *sections])


def test_the_text(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    shutil.copy(EXAMPLES / "digits.py", tmp_path)
    ran = run(tmp_path, "digits:build", "--input", "1x1x8x8")
    assert (ran.code, ran.err) == (0, "")
    golden("init_digits.yaml", ran.out)


@pytest.mark.parametrize(
    ("factory", "shape"), [("net:build", "1x3x8x8"), ("net:resnet20", "1x3x32x32"), ("digits:build", "1x1x8x8")]
)
def test_it_is_valid_and_compiles(tmp_path: Path, factory: str, shape: str) -> None:
    shutil.copy(EXAMPLES / "digits.py", heads(tmp_path))
    spec = tmp_path / "first.yaml"
    assert run(tmp_path, factory, "--input", shape, "-o", spec.name).code == 0
    result = compile_spec(load_spec(spec, ["export=[]"]), tmp_path / "out")
    assert result.exit_code == 0
    assert 0.3 < result.plan.after.macs / result.plan.before.macs <= 0.5


def test_what_is_commented_is_valid_too(tmp_path: Path) -> None:
    text = run(heads(tmp_path), "net:build", "--input", "1x3x8x8").out
    (tmp_path / "net.yaml").write_text(uncommented(text))
    spec = load_spec(tmp_path / "net.yaml")
    assert [(task.name, task.output) for task in spec.tasks] == [("0", "0"), ("1.map", "1.map")]
    assert spec.model.protect == ("far", "aux.*")
    assert [step.name for step in spec.passes] == ["pagcp", "refit", "finetune"]


def test_as_json(tmp_path: Path) -> None:
    found = json.loads(run(heads(tmp_path), "net:build", "--input", "1x3x8x8", "--json").out)
    assert found["outputs"] == {"0": "f32[N, 5]", "1.map": "f32[N, 2, 8, 8]"}
    assert found["heads"] == {"0": ["far"], "1.map": ["aux.*"]}
    assert found["groups"] == ["stem", "far", "aux.first", "aux.last"]


def test_the_head_of_a_single_output(tmp_path: Path) -> None:
    project(tmp_path)
    found = json.loads(run(tmp_path, "net:build", "--input", "1x1x6x6", "--json").out)
    assert found["heads"] == {"output": ["head"]}
    assert "{name: output, loss: cross_entropy," in found["spec"]


def test_a_budget_within_reach(tmp_path: Path) -> None:
    """Where most of the network is pinned, what is asked for is half of what can go."""
    fixed = NET.replace("x = x + torch.relu(self.block(x))", "x = (x + torch.relu(self.block(x))).softmax(1)")
    fixed = fixed.replace(
        "self.head = nn.Linear(width, 3)", "self.head = nn.Sequential(nn.Linear(width, 9), nn.Linear(9, 3))"
    )
    project(tmp_path, net=fixed)
    assert run(tmp_path, "net:build", "--input", "1x1x6x6", "-o", "some.yaml").code == 0
    spec = load_spec(tmp_path / "some.yaml", ["export=[]"])
    assert str(spec.budgets.macs) == "99.9%"
    assert compile_spec(spec, tmp_path / "out").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["net:build"], 2, "net:build  error[S106]: --input is missing"),
        (["net.yaml", "--input", "1x3x8x8"], 2, "error[S118]: must be of the form module:callable, got 'net.yaml'"),
        (["net:build", "--input", "big"], 2, "error[S105]: --input must be a shape such as"),
        (["net:stiff", "--input", "1x3x8x8"], 1, "error[G301]: group `0` (4 channels) is pinned: "),
        (["net:build", "--input", "1x3x8x8", "-o", "net.py"], 2, "error[S119]: net.py exists\n  hint: --force"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    ran = run(heads(tmp_path), *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert (tmp_path / "net.py").read_text() == HEADS
