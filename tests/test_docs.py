"""The pages keep their word: Python snippets run, commands exist, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from pagcp_ir import rules
from pagcp_ir.analyse import analyse
from pagcp_ir.planning import make_plan
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.base import Context, State, run_passes
from specs.options import SelectorOptions
from specs.spec import Budgets, Spec
from tests.cli.nets import conv_net
from tests.running import ROOT, pagcp

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_snippet(name: str) -> dict[str, Any]:
    code = "\n".join(blocks(ROOT / "docs" / name, "python"))
    assert code
    namespace: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(code, name, "exec", dont_inherit=True), namespace)
    return namespace


def test_add_an_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "FUNCTIONS", dict(rules.FUNCTIONS))
    run_snippet("add-an-op.md")


def test_add_a_pass() -> None:
    dead = run_snippet("add-a-pass.md")["Dead"](SelectorOptions())
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    with torch.no_grad():
        for tensor in net[0].parameters():
            tensor[[1, 4]] = 0
        net[2].weight[:, [1, 4]] = 0
    program = trace(net, [TensorSpec((1, 1, 6, 6))])
    channels = analyse(program)
    start = State(program, channels, make_plan(program, channels, channels.all))
    end = run_passes([dead], start, Context(Budgets()))
    (cut,) = end.plan.cuts
    assert cut.removed == (1, 4)
    assert np.isclose(end.decisions[0].ratio, 2 / 6)


def test_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "specs" / "examples"))
    (tmp_path / "plan.json").write_bytes((ROOT / "tests" / "golden" / "plans" / "digits_refit.json").read_bytes())
    model = run_snippet("recovery.md")["model"]
    assert model.digit.hidden.out_features == 30
    assert model(torch.randn(3, 1, 8, 8))["digit"].shape == (3, 10)


def test_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    conv_net(tmp_path / "a.onnx", (3, 32, 32))
    conv_net(tmp_path / "b.onnx", (3, 8, 8))
    found = run_snippet("latency.md")
    assert found["first"].batch == 1
    assert [row.batch for row in found["found"].rows] == [1, 1, 4, 4]
    budgets = [yaml.safe_load(text)["budgets"] for text in blocks(ROOT / "docs" / "latency.md", "yaml")]
    assert [Budgets.model_validate(budget).latency.batch for budget in budgets] == [1, 16]


def test_readme_spec_is_valid() -> None:
    (text,) = blocks(ROOT / "README.md", "yaml")
    data = yaml.safe_load(text)
    assert Spec.model_validate(data).tasks[0].name == "depth"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", text, re.MULTILINE)) <= {(t, "") for t in targets} | {
        ("", t) for t in targets
    }
    for shell in blocks(page, "sh"):
        for command in re.findall(r"^pagcp (\w+)", shell, re.MULTILINE):
            assert pagcp(command, "--help").code == 0
