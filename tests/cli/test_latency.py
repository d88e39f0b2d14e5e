"""budgets.latency: met as measured or refused, with backends that measure and such that always say the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pagcp_cli import compile_spec, load_spec, verify_folder
from pagcp_cli.network import open_network
from pagcp_cli.render import compile_report
from pagcp_cli.result import CompileResult
from specs.describe import describe
from specs.diagnostics import PassError, SpecError
from tests.cli.projects import SPEC, project, weights
from tests.running import EXAMPLES

BENCH = """
import sys
import onnx

# made of the widths: blocks of 4 channels, and half a millisecond for whatever else there is
sizes = [t.dims for t in onnx.load(sys.argv[1]).graph.initializer if len(t.dims) == 4]
print("runs 9")
print("median:", 0.5 + sum(0.1 * -(-o // 4) * -(-i // 4) for o, i, *_ in sizes), "ms")
"""
COMMAND = f'backend: {{command: "{sys.executable} bench.py {{onnx}}"}}'
DENSE = 0.5 + 0.1 * (4 + 16)
TABLE = [("stem", (1,)), ("block", (1, 16)), ("head", (1, 16))]
WIDTHS = {"stem": (1, 16), "block": (1, 16), "head": (3,)}


def made(folder: Path, budget: str, passes: str = "uniform: {criterion: l1}") -> Path:
    """A project of width 16 whose cuts save what BENCH says."""
    spec = SPEC.replace("uniform: {ratio: 0.5, criterion: l1}", passes).replace("width: 8", "width: 16")
    path = project(folder, spec + f"budgets: {{latency: {budget}}}\n")
    save_file(weights(16), folder / "net.safetensors")
    (folder / "bench.py").write_text(BENCH)
    return path


def compiled(path: Path) -> CompileResult:
    return compile_spec(load_spec(path), path.parent / "out")


def test_a_command_says_what_a_network_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = compiled(made(tmp_path, f"{{at_most: 60%, {COMMAND}}}"))
    found = result.latency
    assert found is not None
    assert found.met
    assert (found.before, found.at_most) == (pytest.approx(DENSE), "60%")
    assert found.after <= 0.6 * DENSE
    assert found.low == found.ratio == found.high == pytest.approx(found.after / found.before)
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert evidence["latency"] == found.to_dict()
    assert "latency" not in (tmp_path / "out" / "plan.json").read_text()
    assert "missed" in evidence
    assert result.exit_code == 0
    lines = compile_report(result).splitlines()
    (row,) = [line for line in lines if line.startswith("latency ")]
    assert row.split() == ["latency", "2.5", "ms", f"{found.after:.4g}", "ms", f"{found.ratio:.1%}", "60%", "met"]
    assert verify_folder(tmp_path / "out")["evidence"].endswith("0 promises missed")


def test_what_misses_is_measured_again_deeper(tmp_path: Path) -> None:
    """The layers alone, as measured here, say nothing of blocks of 4: the limit moves until the command is content."""
    result = compiled(made(tmp_path, f"{{at_most: 0.8ms, {COMMAND}}}"))
    assert result.latency is not None
    assert result.latency.after <= 0.8
    assert result.exit_code == 0


def test_a_budget_out_of_reach_is_refused_with_the_best(tmp_path: Path) -> None:
    path = made(tmp_path, "{at_most: 1%, backend: {table: times.csv}}")
    table(tmp_path)
    with pytest.raises(PassError) as error:
        compiled(path)
    (told,) = error.value.diagnostics
    assert told.code == "P413"
    least = "best reached 0.05 ms, 1.6% (1.6% to 1.6%) of 3.2 ms, as times.csv says"
    assert told.message == f"the latency budget is out of reach: at most 1%, {least}"
    assert not (tmp_path / "out").exists()


def test_a_cut_that_does_not_look_for_the_budget_misses_it(tmp_path: Path) -> None:
    path = made(tmp_path, "{at_most: 50%, backend: {table: times.csv}}", "uniform: {ratio: 0.1}")
    table(tmp_path)
    result = compiled(path)
    took = (15 + 15 * 15 + 3 * 15) / 100
    share = f"{took / 3.2:.1%}"
    assert result.missed == (f"budget latency: {took:.4g} ms of 3.2 ms, {share} ({share} to {share}), at most 50%",)
    assert result.exit_code == 4
    assert verify_folder(tmp_path / "out")["evidence"].endswith("1 promises missed")


def table(folder: Path, skip: str = "") -> None:
    rows = [
        f"{layer},{inputs},{outputs},{inputs * outputs / 100}"
        for layer, over in TABLE
        for inputs in over
        for outputs in WIDTHS[layer]
        if layer != skip
    ]
    (folder / "times.csv").write_text("\n".join(["layer,inputs,outputs,ms", *rows]) + "\n")


def test_a_table_gives_the_times_of_layers(tmp_path: Path) -> None:
    path = made(tmp_path, "{at_most: 30%, backend: {table: times.csv}}")
    with pytest.raises(SpecError, match=r"there is no file times\.csv"):
        load_spec(path)
    table(tmp_path)
    words = describe(load_spec(path))
    assert "a run takes at most 30% of the original's time, as times.csv says at batch 1 with 1 thread" in words
    result = compiled(path)
    found = result.latency
    assert found is not None
    (a, b) = (cut.kept for cut in result.plan.cuts) if len(result.plan.cuts) == 2 else (0, 0)
    assert found.before == pytest.approx((16 + 256 + 48) / 100)
    assert found.ratio <= 0.3
    assert found.backend == "times.csv"
    assert (a, b) != (16, 16)
    again = compile_spec(load_spec(path), tmp_path / "again")
    assert again.plan == result.plan


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "the table has no time of layer `head`"),
        ("layer,inputs,outputs\nstem,1,2\n", "the table cannot be read: no column ms"),
        ("layer,inputs,outputs,ms\nstem,1,16,x\n", "the table cannot be read: could not convert"),
        ("layer,inputs,outputs,ms\nstem,1,16\n", "the table cannot be read: could not convert"),
        ("layer,inputs,outputs,ms\nstem,1,8,1\n", "the table has no time of layer `stem` at 1 x 16"),
        ("layer,inputs,outputs,ms\nstem,1,16,1\nblock,1,16,1\nblock,16,8,1\n", "layer `block` at 1 x 8"),
    ],
)
def test_tables_that_lack_something(text: str | None, told: str, tmp_path: Path) -> None:
    path = made(tmp_path, "{at_most: 30%, backend: {table: times.csv}}")
    table(tmp_path, skip="head")
    if text is not None:
        (tmp_path / "times.csv").write_text(text)
    with pytest.raises(PassError) as error:
        compiled(path)
    assert error.value.diagnostics[0].code == "P414"
    assert told in error.value.diagnostics[0].message


@pytest.mark.parametrize("search", ["marginal", "certified", "published"])
def test_every_search_goes_by_milliseconds(search: str, tmp_path: Path) -> None:
    spec = load_spec(EXAMPLES / "digits.yaml")
    _, channels = open_network(spec)
    rows = ["layer,inputs,outputs,ms"]
    for layer in channels.layers:
        inputs, outputs = layer.inputs.size, layer.outputs.size
        rows += [f"{layer.name},{i},{o},{i * o / 100}" for i in {1, inputs} for o in {1, outputs}]
    (tmp_path / "times.csv").write_text("\n".join(dict.fromkeys(rows)))
    given = [
        "data.calibration.samples=80",
        f"budgets={{latency: {{at_most: 80%, backend: {{table: {tmp_path / 'times.csv'}}}}}}}",
        "export=[]",
        f"passes=[pagcp: {{search: {search}, order: latency, grid: [0.25, 0.5, 0.75]}}]",
    ]
    result = compile_spec(load_spec(EXAMPLES / "digits.yaml", given), tmp_path / "out")
    assert result.latency is not None
    assert result.latency.met
    assert not any(line.startswith("budget") for line in result.missed)
    assert any(cut.removed for cut in result.plan.cuts)
    (record,) = result.searches
    assert all(step.cost < result.latency.before for step in record.path)  # milliseconds, not MACs


def test_onnxruntime_measures(tmp_path: Path) -> None:
    budget = "{at_most: 8s, backend: onnxruntime, batch: 2}"
    found = compiled(made(tmp_path, budget, "uniform: {ratio: 0.9}")).latency
    assert found is not None
    assert (found.backend, found.batch, found.threads, found.met) == ("onnxruntime", 2, 1, True)
    assert 0.001 < found.after < 1000
    assert 0 < found.low <= found.ratio <= found.high


def test_torch_measures(tmp_path: Path) -> None:
    found = compiled(made(tmp_path, "{at_most: 8s, backend: torch}", "uniform: {ratio: 0.9}")).latency
    assert found is not None
    assert (found.backend, found.met) == ("torch", True)
    assert 0.001 < found.after < 1000
