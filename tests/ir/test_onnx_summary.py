"""ONNX files that nobody of us wrote: layers, widths and figures as computed by hand, or as published."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from pagcp_ir.onnx_summary import open_onnx
from specs.diagnostics import EmitError
from specs.diff import LayerRow
from specs.plan import Costs

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def saved(folder: Path, size: int | str = 8, batch: int | str = "N") -> Path:
    """Conv with 2 parts and a norm, a transposed conv, a linear layer by Gemm, one by MatMul; a batch that is free."""
    shapes: dict[str, tuple[int, ...]] = {"conv.weight": (6, 2, 3, 3), "up.weight": (6, 4, 2, 2), "fc.weight": (5, 4)}
    shapes |= {"fc.bias": (5,), "mix": (5, 7)} | {f"norm.{part}": (6,) for part in ("w", "b", "mean", "var")}
    sizes = {name: bytes(4 * math.prod(dims)) for name, dims in shapes.items()}
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, dims, sizes[name], raw=True) for name, dims in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], group=2, pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["a", "norm.w", "norm.b", "norm.mean", "norm.var"], ["n"]),
        helper.make_node("ConvTranspose", ["n", "up.weight"], ["u"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["u"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["g"], transB=1),
        helper.make_node("Identity", ["mix"], ["mixed"]),
        helper.make_node("MatMul", ["g", "mixed"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_by_hand(tmp_path: Path) -> None:
    found = open_onnx(saved(tmp_path)).summary()
    assert found.layers == (
        LayerRow("conv", "Conv2d", 4, 6, 108 * 16, 108, 432),
        LayerRow("up", "ConvTranspose2d", 6, 4, 96 * 16, 96, 384),
        LayerRow("fc", "Linear", 4, 5, 20, 25, 100),
        LayerRow("mix", "Linear", 5, 7, 35, 35, 140),
    )
    params = 108 + 96 + 25 + 35 + 12
    assert found.costs == Costs(108 * 16 + 96 * 16 + 20 + 35, params, 4 * (params + 12))
    assert found.notes == ()


def test_macs_are_those_of_one_sample(tmp_path: Path) -> None:
    free = open_onnx(saved(tmp_path)).summary()
    assert open_onnx(saved(tmp_path, batch=5)).summary().layers == free.layers


def test_sizes_that_are_open(tmp_path: Path) -> None:
    found = open_onnx(saved(tmp_path, "S")).summary()
    assert [row.macs for row in found.layers] == [None, None, 20, 35]
    assert found.notes == ("2 of 4 layers have sizes that the file leaves open: their MACs count as 0",)


def test_the_graph(tmp_path: Path) -> None:
    text = [str(node) for node in open_onnx(saved(tmp_path)).text().nodes]
    assert text == [
        "x: f32[1, 4, 8, 8] = input",
        "a: f32[1, 6, 4, 4] = Conv(group=2, pads=[1, 1, 1, 1], strides=[2, 2])(x f32[1, 4, 8, 8], "
        "conv.weight f32[6, 2, 3, 3])",
        "n: f32[1, 6, 4, 4] = BatchNormalization(a f32[1, 6, 4, 4], norm.w f32[6], norm.b f32[6], norm.mean f32[6], "
        "norm.var f32[6])",
        "u: f32[1, 4, 8, 8] = ConvTranspose(strides=[2, 2])(n f32[1, 6, 4, 4], up.weight f32[6, 4, 2, 2])",
        "p: f32[1, 4, 1, 1] = GlobalAveragePool(u f32[1, 4, 8, 8])",
        "f: f32[1, 4] = Flatten(p f32[1, 4, 1, 1])",
        "g: f32[1, 5] = Gemm(transB=1)(f f32[1, 4], fc.weight f32[5, 4], fc.bias f32[5])",
        "y: f32[1, 7] = MatMul(g f32[1, 5], mix f32[5, 7])",
        "return y f32[1, 7]",
    ]


@pytest.mark.parametrize(
    ("name", "layers", "params", "macs"),
    [
        ("squeezenet", 26, 1_235_496, 0.349e9),
        ("vgg19", 19, 143_667_240, 19.63e9),
        ("bvlc_alexnet", 8, 60_965_224, 0.655e9),
    ],
)
def test_published_figures(name: str, layers: int, params: int, macs: float) -> None:
    """Networks of others whose parameters are known to the digit; their weights are made by ConstantOfShape."""
    found = open_onnx(LIGHT / f"light_{name}.onnx").summary()
    assert (len(found.layers), found.costs.params) == (layers, params)
    assert found.costs.macs == pytest.approx(macs, rel=2e-3)
    assert found.costs.bytes == 4 * params


def test_a_file_without_nodes(tmp_path: Path) -> None:
    onnx.save(onnx.ModelProto(), tmp_path / "net.onnx")
    with pytest.raises(EmitError, match="the file cannot be read as ONNX: it holds no graph"):
        open_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("data", [b"", b"nothing", b"\x08"])
def test_a_foreign_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(EmitError, match=r"net\.onnx  error\[E612\]: the file cannot be read as ONNX: "):
        open_onnx(tmp_path / "net.onnx")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(EmitError, match=r"E612.*No such file"):
        open_onnx(tmp_path / "net.onnx")
