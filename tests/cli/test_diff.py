"""`pagcp diff` of specs, folders, .pt2 and .onnx files, ours and of others: golden texts, exit codes, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime.datasets
import pytest
from typer.testing import CliRunner

from pagcp_cli import compile_spec, diff, load_spec
from pagcp_cli.main import app
from tests.cli.projects import SPEC, project
from tests.running import ROOT, Ran

Golden = Callable[[str, str], None]
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SIGMOID, MUL = (Path(onnxruntime.datasets.get_example(f"{name}.onnx")) for name in ("sigmoid", "mul_1"))


def run(*arguments: str | Path, columns: int = 80, folder: Path = LIGHT) -> Ran:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, ["diff", *map(str, arguments)], env={"COLUMNS": str(columns)})
    return Ran(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.yaml, and out/ that was compiled from it."""
    folder = tmp_path_factory.mktemp("diff")
    compile_spec(load_spec(project(folder, SPEC.replace("[python]", "[pt2, onnx]"))), folder / "out")
    return folder


ALEXNET, ZFNET = "light_bvlc_alexnet.onnx", "light_zfnet512.onnx"


@pytest.mark.parametrize("columns", [80, 120])
def test_two_networks_of_others(columns: int, golden: Golden) -> None:
    ran = run(ALEXNET, ZFNET, columns=columns)
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= columns
    golden(f"diff_onnx_{columns}.txt", ran.out)


def test_the_graphs_of_two_networks_of_others(golden: Golden) -> None:
    ran = run(ALEXNET, ZFNET, "--graph")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == run(ALEXNET, ZFNET, "--graph", columns=120).out
    golden("diff_onnx_graph.txt", ran.out)


def test_networks_without_layers() -> None:
    ran = run(SIGMOID, MUL, "--graph", "--exit-code")
    assert ran.code == 1
    assert "-y: f32[3, 4, 5] = Sigmoid(x f32[3, 4, 5])  # removed\n" in ran.out
    assert "+Y: f32[3, 2] = Mul(X' f32[3, 2], W f32[3, 2])  # added\n" in ran.out.replace("(x ", "(X' ")
    assert run(SIGMOID, MUL).out.splitlines()[1].split() == ["total", "0", "0", "->", "6", "-"]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_spec_and_what_was_made_of_it(made: Path, columns: int, golden: Golden) -> None:
    ran = run("net.yaml", "out/model.pt2", columns=columns, folder=made)
    assert (ran.code, ran.err) == (0, "")
    golden(f"diff_spec_{columns}.txt", ran.out)


def test_a_terminal_of_plain_letters(made: Path) -> None:
    files = [str(made / name) for name in ("net.yaml", "out/model.pt2")]
    done = CliRunner(charset="ascii").invoke(app, ["diff", *files], env={"COLUMNS": "120"})
    assert (done.exit_code, done.stdout.count("#####.....")) == (0, 2)


def test_every_layer_at_both_widths_has_the_same_figures(made: Path) -> None:
    narrow, wide = (run("net.yaml", "out/model.pt2", columns=c, folder=made).out for c in (80, 120))
    for line in narrow.splitlines()[1:-1]:
        words = line.replace("~", "").split()
        assert any(all(word in other.split() for word in words) for other in wide.splitlines())


def test_its_graph(made: Path, golden: Golden) -> None:
    golden("diff_spec_graph.txt", run("net.yaml", "out", "--graph", folder=made).out)


def test_markdown(made: Path, golden: Golden) -> None:
    golden("diff_spec.md", run("net.yaml", "out/model.pt2", "--markdown", folder=made).out)
    fenced = run("net.yaml", "out", "--graph", "--markdown", folder=made).out
    assert fenced == f"```diff\n{run('net.yaml', 'out', '--graph', folder=made).out}```\n"


def test_a_spec_is_the_network_as_trained(made: Path) -> None:
    found = diff(made / "net.yaml", made / "out")
    plan = diff(made / "out")
    assert (found.before, found.after, found.rows) == (plan.before, plan.after, plan.rows)


def test_onnx_is_told_by_the_same_names(made: Path) -> None:
    """The exporter folds the norm into stem, which gets a bias; all else is that of the program."""
    rows = diff(made / "out" / "model.pt2", made / "out" / "model.onnx").rows
    assert [(row.name, row.change) for row in rows] == [("stem", "same"), ("block", "same"), ("head", "same")]
    assert all(row.before and row.after and row.before.macs == row.after.macs for row in rows)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("out", "out/model.pt2"), 0),
        (("out", "out/model.pt2", "--graph"), 0),
        (("out/model.onnx", "out", "--graph"), 0),
        (("net.yaml", "out"), 1),
        (("net.yaml", "out", "--graph"), 1),
        (("net.yaml", "missing"), 2),
    ],
)
def test_exit_codes(made: Path, names: tuple[str, ...], code: int) -> None:
    assert run(*names, "--exit-code", folder=made).code == code
    assert run(*names, folder=made).code == (1 if code == 2 else 0)


def test_json(made: Path) -> None:
    found = json.loads(run("net.yaml", "out/model.pt2", "--json", folder=made).out)
    assert found == json.loads(json.dumps(diff(made / "net.yaml", made / "out" / "model.pt2").to_dict()))
    assert (found["equal"], found["rows"][0]["before"]["bytes"]) == (False, 320)
    nodes = json.loads(run("net.yaml", "out", "--graph", "--json", folder=made).out)
    assert nodes["equal"] is False
    assert nodes["counts"]["retyped"] == sum("retyped" in line["marks"] for h in nodes["graph"] for line in h["lines"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("out/plan.json", "out", "--graph"),
            "out/plan.json  error[S121]: a plan says what is cut",
        ),
        (("net.yaml", "out/model.onnx", "--graph"), "net.yaml  error[S121]: a graph of torch has other nodes than one"),
        (("out", "--graph"), "error[S121]: one network has no graph to be compared with\n  hint: name two networks"),
        (("net.yaml",), "net.yaml  error[L801]: a program alone says nothing of a change\n  hint: name two networks"),
        (("net.yaml", "net.safetensors"), "net.safetensors  error[L801]: "),
        (("out/model.onnx", "other.onnx"), "other.onnx  error[E612]: the file cannot be read as ONNX: "),
    ],
)
def test_what_is_refused(made: Path, names: tuple[str, ...], message: str) -> None:
    ran = run(*names, folder=made)
    assert ran.code in (1, 2)
    assert ran.out == ""
    assert message in ran.err


def test_the_page_shows_what_is_printed(made: Path) -> None:
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    assert run("net.yaml", "out/model.pt2", folder=made).out in page
    shown = page.partition("```diff\n")[2].partition("```")[0]
    assert shown in run("net.yaml", "out", "--graph", folder=made).out
