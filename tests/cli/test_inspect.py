"""`pagcp inspect`: what it prints, word by word; the same facts as JSON; the graph as text and for Graphviz."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pagcp_cli.main import app
from tests.cli.projects import SPEC, project
from tests.running import Ran, pagcp

NET = """
import torch
from torch import nn


class Picky(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 1e9 else x * 2


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.depth = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.block = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.side, self.picky = nn.Conv2d(width, 4, 1), Picky()
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.block(self.depth(x))
        y = self.picky(self.side(x))
        return {"class": self.head(x.mean((2, 3))), "side": y}


def build():
    return Net()
"""

REPORT = """Net
traced by   torch.fx
kept whole  picky: the control flow depends on data: float() reads the value of
            `sum_1` (net.py:8)
groups      3, 4 of 11 units free to cut
prunable    100.0% of 16.7k MACs, 100.0% of the 16.7k of convolutions

stem
  width       8 in 4 units, all free; touches 100.0% of MACs
  coupled     stem ~ block: added at net.py:22
  grouped     block in 2 equal parts
  carried by  BatchNorm2d norm; depthwise Conv2d depth
  read by     block, side, head

side
  width    4, none free; touches 6.9% of MACs
  read by  nothing
  pinned   4 of 4: `picky: Picky` is kept whole: the control flow depends on
           data: float() reads the value of `sum_1` (net.py:8) (net.py:23)

head
  width    3, none free; touches 0.1% of MACs
  read by  nothing
  pinned   3 of 3: graph output `class` (net.py:24)

A layer between two groups counts for both: what groups touch adds up to more
than 100%.
"""


def run(folder: Path, *arguments: str | Path, columns: int = 80) -> Ran:
    """`pagcp inspect` in this process, in that folder, on a terminal of that width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, ["inspect", *map(str, arguments)], env={"COLUMNS": str(columns)})
    return Ran(done.exit_code, done.stdout, done.stderr)


def inspect(folder: Path, *options: str | Path, columns: int = 80) -> Ran:
    """The same of `net:build` beside NET."""
    project(folder, net=NET)
    return run(folder, "net:build", "--input", "1x1x6x6", *options, columns=columns)


def test_the_report(tmp_path: Path) -> None:
    project(tmp_path, net=NET)
    ran = pagcp("inspect", "net:build", "--input", "1x1x6x6", cwd=tmp_path, env={"COLUMNS": "80"})
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == REPORT


def test_a_wider_terminal_breaks_fewer_lines(tmp_path: Path) -> None:
    out = inspect(tmp_path, columns=120).out
    assert out.split() == REPORT.split()
    assert 80 < max(map(len, out.splitlines())) <= 120


def test_json_has_the_same_facts(tmp_path: Path) -> None:
    found = json.loads(inspect(tmp_path, "--json").out)
    stem = found["groups"][0]
    assert stem["couplings"] == [{"first": "stem", "second": "block", "op": "add", "where": "net.py:22"}]
    assert stem["carriers"] == [{"name": "norm", "kind": "BatchNorm2d"}, {"name": "depth", "kind": "depthwise Conv2d"}]
    assert (stem["width"], stem["units"], stem["free"], stem["parts"]) == (8, 4, 4, {"block": 2})
    assert found["groups"][2]["pins"] == [{"count": 3, "reason": "graph output `class`", "where": "net.py:24"}]
    assert found["route"] == "fx"
    assert found["notes"] == []
    assert [note.partition(":")[0] for note in found["kept_whole"]] == ["picky"]
    assert found["macs"]["prunable"] <= found["macs"]["total"] == found["costs"]["macs"]
    assert found["conv_macs"]["total"] == found["macs"]["total"] - 8 * 3


def test_what_groups_touch_overlaps(tmp_path: Path) -> None:
    found = json.loads(inspect(tmp_path, "--json").out)
    assert sum(group["macs"] for group in found["groups"]) > found["macs"]["total"]


def test_of_a_spec_with_what_it_protects(tmp_path: Path) -> None:
    spec = project(tmp_path, SPEC.replace("  inputs:", "  protect: [block]\n  inputs:"))
    ran = run(tmp_path, spec, "--plan", tmp_path / "empty.json")
    assert (ran.code, ran.err) == (0, "")
    assert "  pinned      8 of 8: protected by `block`\n" in ran.out
    assert "prunable   0.0% of 23.4k MACs, 0.0% of the 23.3k of convolutions\n" in ran.out
    plan = json.loads((tmp_path / "empty.json").read_text())
    assert plan["cuts"] == []
    assert plan["costs"]["before"] == plan["costs"]["after"]


STATEMENT = r'"(?:[^"\\]|\\.)*"'
ATTRIBUTE = rf"\w+=(?:{STATEMENT}|[\w.]+)"
NODE = re.compile(rf"  ({STATEMENT}|node|edge) \[({ATTRIBUTE}(?:, {ATTRIBUTE})*)\];")
EDGE = re.compile(rf"  ({STATEMENT}) -> ({STATEMENT})(?: \[({ATTRIBUTE})\])?;")


def parsed(dot: str) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The nodes with their attributes and the edges of a digraph; every line must be a statement."""
    head, *lines, last = dot.splitlines()
    assert re.fullmatch(rf"digraph {STATEMENT} {{", head)
    assert last == "}"
    nodes, edges = {}, []
    for line in lines:
        edge, node = EDGE.fullmatch(line), NODE.fullmatch(line)
        assert edge or node, line
        if edge:
            edges.append((edge[1].strip('"'), edge[2].strip('"'), edge[3] or ""))
        elif node and node[1].startswith('"'):
            nodes[node[1].strip('"')] = node[2]
    assert {end for a, b, _ in edges for end in (a, b)} <= set(nodes)
    return nodes, edges


def test_dot(tmp_path: Path) -> None:
    ran = inspect(tmp_path, "--graph", "dot")
    assert (ran.code, ran.err) == (0, "")
    nodes, edges = parsed(ran.out)
    assert list(nodes) == ["x", "stem", "depth", "block", "add", "side", "picky", "head", "output"]
    assert edges == [
        ("x", "stem", ""),
        ("stem", "depth", 'label="8"'),
        ("depth", "block", 'label="8"'),
        ("stem", "add", 'label="8"'),
        ("block", "add", 'label="8"'),
        ("add", "side", 'label="8"'),
        ("side", "picky", 'label="4"'),
        ("add", "head", 'label="8"'),
        ("head", "output", 'label="3"'),
        ("picky", "output", ""),
    ]
    colours = {name: re.findall('fillcolor="(.*?)"', text) for name, text in nodes.items()}
    assert colours["stem"] == colours["depth"] == colours["block"] != colours["side"]
    assert nodes["block"].startswith('label="block\\nConv2d, 2 parts 8 -> 8"')
    assert 'label="head\\nLinear 8 -> 3\\npinned 3 of 3: graph output `class` (net.py:24)"' in nodes["head"]
    assert "dashed" in nodes["head"]
    assert "dashed" not in nodes["stem"]
    assert nodes["add"] == 'label="add\\nnet.py:22", shape=ellipse, style=""'


def test_names_that_need_quotes(tmp_path: Path) -> None:
    net = NET.replace('"side": y', "'the \"side\" \\\\ one': y")
    project(tmp_path, net=net)
    ran = run(tmp_path, "net:build", "--input", "1x1x6x6", "--graph", "dot")
    parsed(ran.out)


def test_a_graph_in_a_file_leaves_the_report_on_stdout(tmp_path: Path) -> None:
    ran = inspect(tmp_path, "--graph", "text", "-o", tmp_path / "net.txt")
    assert ran.out == REPORT
    text = (tmp_path / "net.txt").read_text()
    assert text.startswith("x: f32[2, 1, 6, 6] = input\nstem: f32[2, 8, 6, 6] = stem: Conv2d(1, 8,")
    assert inspect(tmp_path, "--graph", "text").out == text
    assert json.loads(inspect(tmp_path, "--graph", "text", "--json").out) == {"graph": text}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net:build"], "net:build  error[S106]: --input is missing"),
        (
            ["net:build", "--input", "1x1x6xa"],
            "error[S105]: --input must be a shape such as 1x3x224x224 or 1x16:int64, got 1x1x6xa",
        ),
        (
            ["net:build", "--input", "1x0"],
            "error[S105]: --input must be a shape such as 1x3x224x224 or 1x16:int64, got 1x0",
        ),
        (
            ["net:build", "--input", "1x1x6x6:int3"],
            "error[S105]: --input must be a shape such as 1x3x224x224 or 1x16:int64, got 1x1x6x6:int3",
        ),
        (
            ["net.yaml", "--input", "1x1x6x6"],
            "net.yaml  error[S110]: --input belongs to module:callable; a spec has model.inputs",
        ),
        (
            ["net:build", "--input", "1x1x6x6", "--set", "seed=1"],
            "net:build  error[S116]: --set belongs to a spec; module:callable has no keys",
        ),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, arguments: list[str], message: str) -> None:
    project(tmp_path)
    ran = run(tmp_path, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == message


def test_a_file_for_no_graph(tmp_path: Path) -> None:
    ran = inspect(tmp_path, "-o", tmp_path / "net.dot")
    assert (ran.code, ran.out) == (2, "")
    assert "needs --graph" in ran.err
