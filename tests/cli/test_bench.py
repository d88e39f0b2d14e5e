"""`pagcp bench`: races of real networks, what it says of layers, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pagcp_cli.benched import bench_report
from pagcp_cli.benching import Bench, Measured, bench, parse_shapes
from pagcp_ir.timing.layer import LayerShape, layer_ms
from pagcp_ir.timing.layers import LayerTime, _judged
from pagcp_ir.timing.race import Given, Job, Spread, race
from specs.diagnostics import EmitError, SpecError, TraceError
from tests.cli.nets import conv_net
from tests.running import pagcp


def test_a_race_of_two_onnx_files(tmp_path: Path) -> None:
    slow, fast = conv_net(tmp_path / "a.onnx", (3, 64, 64, 64), 32), conv_net(tmp_path / "b.onnx", (3, 8, 8, 8), 32)
    ran = pagcp("bench", slow, fast, "--batch", "1", "--batch", "2", "--threads", "1", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [(row["batch"], row["threads"], row["ratio"] is None) for row in found["rows"]] == [
        (1, 1, True),
        (1, 1, False),
        (2, 1, True),
        (2, 1, False),
    ]
    for a, b in (found["rows"][:2], found["rows"][2:]):
        ratio = b["ratio"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"] < 0.7
        assert a["ms"]["low"] <= a["ms"]["median"] <= a["ms"]["high"]
        assert a["per_second"] == pytest.approx(1e3 * a["batch"] / a["ms"]["median"])
        assert 5_000_000 < a["peak"] < 500_000_000
    assert [layer["name"] for layer in found["layers"]] == ["conv0", "conv1", "conv2"]
    assert found["layers"][1]["widths"] == [[64, 64], [8, 8]]
    assert found["layers"][1]["macs"] == [64 * 64 * 9 * 1024, 8 * 8 * 9 * 1024]


def test_the_report_fits_80_columns_and_explains_what_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    spread = Spread(1.0, 0.9, 1.1)
    rows = tuple(
        Measured(path, "onnxruntime", 1, 1, spread, 1000.0, 60_000_000, 25, ratio)
        for path, ratio in (("a.onnx", None), ("b.onnx", Spread(1.02, 1.0, 1.04)))
    )
    layers = (
        LayerTime("features.0.conv", "Conv2d", ((32, 32), (19, 21)), (2_360_000, 919_000), (0.06, 0.07), True, 8, 0.04),
        LayerTime("features.1.conv", "Conv2d", ((32, 32), (19, 21)), (2_360_000, 919_000), (0.06, 0.07), True, 8, 0.04),
        LayerTime("head", "Linear", ((32, 10), (21, 10)), (320, 210), (0.02, 0.01)),
    )
    lines = bench_report(Bench(rows, layers)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "A: a.onnx"
    assert "  B/A  1.020  1.000..1.040" in "\n".join(lines)
    marked = [line.split()[1] for line in lines if line.startswith("! f")]
    assert marked == ["features.0.conv", "features.1.conv"]
    advice = "features.0.conv, features.1.conv: 0.04 ms instead of 0.07 at multiples of 8"
    assert advice in " ".join(" ".join(lines).split())
    assert lines[-1].startswith("hint: round_to: 8")


@pytest.mark.parametrize(
    ("ms", "macs", "stuck"),
    [((1.0, 1.0), (100, 60), True), ((1.0, 0.5), (100, 60), False), ((1.0, 1.0), (100, 99), False)],
)
def test_what_counts_as_stuck(ms: tuple[float, float], macs: tuple[int, int], stuck: bool) -> None:
    shape = LayerShape("Conv", 10, 10, (8, 8), 1, (("kernel_shape", (3, 3)),))
    row = LayerTime("a", "Conv2d", ((32, 32), (10, 10)), macs, ms)
    times = {4: 0.95, 8: 0.7, 16: 0.9}
    found = _judged(row, shape, 1.0, lambda wider: times[{12: 4, 16: 8}[wider.outputs]])
    assert (found.stuck, found.round_to) == (stuck, 8 if stuck else None)


def test_the_time_of_a_layer_grows_with_its_work() -> None:
    kernel = (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)))
    conv = LayerShape("Conv", 8, 8, (16, 16), 1, kernel)
    for backend in ("onnxruntime", "torch"):
        assert layer_ms(conv.resized(128, 128), backend) > 2 * layer_ms(conv, backend)
        for shape in (
            LayerShape("Conv", 8, 16, (16, 16), 8, kernel),
            LayerShape("Linear", 8, 16, (1,)),
            LayerShape("Linear", 8, 16, (5,)),
            LayerShape("ConvTranspose", 8, 16, (4, 4), 2, kernel),
        ):
            assert layer_ms(shape, backend, batch=2) > 0
    assert LayerShape("Conv", 8, 16, (16,), 8).resized(3, 6) == LayerShape("Conv", 3, 6, (16,), 3)
    assert LayerShape("Conv", 8, 16, (16,), 2).resized(3, 5) == LayerShape("Conv", 4, 6, (16,), 2)


def test_sizes_that_a_foreign_file_leaves_open(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "free.onnx", (3, 4), "side")
    with pytest.raises(SpecError) as error:
        bench([path])
    (told,) = error.value.diagnostics
    assert (told.code, told.hint) == ("S122", "--input image=1x3x224x224")
    assert told.message == "the input image has free sizes: batchx3xsidexside"
    found = bench([path], shapes=parse_shapes(["image=1x3x8x8"]), rounds=2)
    assert found.layers[0].macs == (3 * 4 * 9 * 64,)
    assert bench([path], shapes=parse_shapes(["1x3x8x8"]), rounds=2, layers=False).rows[0].batch == 1


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ("image=1x5x8x8", "the input image has the sizes batchx3xsidexside, not 5 on axis 1"),
        ("picture=1x3x8x8", "there is no input picture"),
        ("image=3x8x8", "the input image has batchx3xsidexside"),
    ],
)
def test_shapes_that_do_not_fit(shape: str, told: str, tmp_path: Path) -> None:
    path = conv_net(tmp_path / "free.onnx", (3, 4), "side")
    with pytest.raises(SpecError) as error:
        bench([path], shapes=parse_shapes([shape]))
    assert [(d.code, d.message) for d in error.value.diagnostics] == [("S122", told)]


def test_the_lock_of_a_result_says_its_sizes(tmp_path: Path) -> None:
    conv_net(tmp_path / "model.onnx", (3, 4), "side")
    (tmp_path / "spec.lock.yaml").write_text("spec: {model: {factory: a:b, inputs: [[1, 3, 8, 8]]}}")
    found = bench([tmp_path], rounds=2)
    assert found.layers[0].macs == (3 * 4 * 9 * 64,)
    (tmp_path / "spec.lock.yaml").write_text("spec: none")
    with pytest.raises(SpecError, match="free sizes"):
        bench([tmp_path], rounds=2)


def test_a_batch_that_is_fixed(tmp_path: Path) -> None:
    path = conv_net(tmp_path / "two.onnx", (3, 4), batch=2)
    assert bench([path], rounds=2, layers=False).rows[0].batch == 2
    with pytest.raises(SpecError, match="fixed: --batch 2"):
        bench([path], batches=[1])


def test_what_cannot_be_timed(tmp_path: Path) -> None:
    onnx = conv_net(tmp_path / "a.onnx", (3, 4))
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    (tmp_path / "broken.pt2").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    cases = {
        "missing.onnx": (SpecError, "S122"),
        "empty": (SpecError, "S122"),
        "broken.onnx": (EmitError, "E612"),
        "broken.pt2": (TraceError, "T209"),
    }
    for name, (kind, code) in cases.items():
        with pytest.raises(kind) as error:
            bench([tmp_path / name])
        assert error.value.diagnostics[0].code == code
    with pytest.raises(SpecError, match="--input must be a shape such as"):
        parse_shapes(["image=large"])
    ran = pagcp("bench", tmp_path / "missing.onnx")
    assert (ran.code, ran.out) == (2, "")
    assert "error[S122]: there is no such file or folder" in ran.err
    wrong = Job("onnxruntime", onnx, (Given("image", (1, 5, 16, 16)),))
    with pytest.raises(EmitError) as failed:
        race([wrong])
    assert failed.value.diagnostics[0].code == "E613"


def test_a_program_of_torch(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    dynamic = {"input": {0: torch.export.Dim.DYNAMIC}}
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=dynamic), path)
    (row,) = bench([path], batches=[3], rounds=2).rows
    assert (row.backend, row.batch) == ("torch", 3)
    assert row.peak > 50_000_000
    with pytest.raises(SpecError, match=r"no backend runs both"):
        bench([path, conv_net(tmp_path / "a.onnx", (3, 4))])
