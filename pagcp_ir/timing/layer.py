"""One layer as a network of its own, so that it can be timed at any width: a convolution, or a product with a matrix.

The time is the least of several blocks of runs: what else the machine does only ever adds to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pagcp_ir.timing.race import Backend

__all__ = ["LayerShape", "layer_ms", "layer_shape"]

BLOCKS, BLOCK_SECONDS = 5, 1e-3
OPSET, IR_VERSION = 17, 9


@dataclass(frozen=True)
class LayerShape:
    """What a layer's time depends on. `sizes`: of its input beside batch and channels; of Linear the rows of a sample.

    `attributes`: those of the ONNX operator but for group: kernel_shape, strides, pads, dilations, output_padding.
    """

    op: str
    inputs: int
    outputs: int
    sizes: tuple[int, ...]
    group: int = 1
    attributes: tuple[tuple[str, tuple[int, ...] | str], ...] = ()

    @property
    def per_channel(self) -> bool:
        """Whether every input channel has kernels of its own."""
        return self.group == self.inputs > 1

    def resized(self, inputs: int, outputs: int) -> LayerShape:
        """The layer at other widths, rounded up to what its groups allow."""
        if self.per_channel:
            times = self.outputs // self.inputs
            return replace(self, inputs=inputs, outputs=inputs * times, group=inputs)
        up = [-(-max(1, width) // self.group) * self.group for width in (inputs, outputs)]
        return replace(self, inputs=up[0], outputs=up[1])

    def text(self) -> str:
        """A name that equal shapes share, whatever their widths."""
        told = " ".join(f"{key}={value}" for key, value in self.attributes)
        group = "per channel" if self.per_channel else f"group={self.group}"
        return f"{self.op} {self.sizes} {group} {told}"


def layer_shape(node: Any, weight: tuple[int, ...], given: tuple[int, ...] | None) -> LayerShape | None:
    """That of an ONNX node with a weight and an input of these sizes; None where it is no plain layer."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if given is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        group = int(attributes.pop("group", 1))
        wide = weight[0], weight[1] * group
        inputs, outputs = wide if node.op_type == "ConvTranspose" else (wide[1], wide[0])
        kept = {key: _frozen(value) for key, value in attributes.items()}
        kept.setdefault("kernel_shape", tuple(weight[2:]))
        return LayerShape(node.op_type, inputs, outputs, tuple(given[2:]), group, tuple(sorted(kept.items())))
    if node.op_type in ("Gemm", "MatMul") and len(weight) == 2 and not attributes.get("transA"):
        inputs, outputs = (weight[1], weight[0]) if attributes.get("transB") else weight
        return LayerShape("Linear", inputs, outputs, (int(np.prod(given[1:-1], dtype=np.int64)),))
    return None


def _frozen(value: Any) -> tuple[int, ...] | str:
    return value.decode() if isinstance(value, bytes) else tuple(int(v) for v in value)


def layer_ms(shape: LayerShape, backend: Backend = "onnxruntime", batch: int = 1, threads: int = 1) -> float:
    """Milliseconds of one run of the layer on random numbers."""
    run = _onnx_run(shape, batch, threads) if backend == "onnxruntime" else _torch_run(shape, batch, threads)
    run()
    once = _seconds(run, 1)
    count = max(1, min(1000, round(BLOCK_SECONDS / max(once, 1e-7))))
    return 1e3 * min(_seconds(run, count) / count for _ in range(BLOCKS))


def _seconds(run: Callable[[], Any], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - began


def _arrays(shape: LayerShape, batch: int) -> tuple[Any, Any]:
    """Input and weight, the latter as ONNX wants it."""
    draw = np.random.default_rng(0)
    if shape.op == "Linear":
        rows = shape.sizes[0]
        given: tuple[int, ...] = (batch, shape.inputs) if rows == 1 else (batch, rows, shape.inputs)
        weight: tuple[int, ...] = (shape.inputs, shape.outputs)
    else:
        kernel = tuple(int(k) for k in dict(shape.attributes)["kernel_shape"])
        given = (batch, shape.inputs, *shape.sizes)
        outer, inner = shape.outputs, shape.inputs // shape.group
        if shape.op == "ConvTranspose":
            outer, inner = shape.inputs, shape.outputs // shape.group
        weight = (outer, inner, *kernel)
    scale = 1 / np.sqrt(max(1, shape.inputs))
    return draw.standard_normal(given, dtype=np.float32), scale * draw.standard_normal(weight, dtype=np.float32)


def _onnx_run(shape: LayerShape, batch: int, threads: int) -> Callable[[], Any]:
    import onnxruntime as ort

    x, weight = _arrays(shape, batch)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    model = _model(shape, x, weight.astype(np.float32))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def _model(shape: LayerShape, x: Any, weight: Any) -> Any:
    attributes: Mapping[str, Any] = {**dict(shape.attributes), "group": shape.group}
    op = "MatMul" if shape.op == "Linear" else shape.op
    node = helper.make_node(op, ["x", "w"], ["y"], **({} if op == "MatMul" else attributes))
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(weight, "w")],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return onnx.shape_inference.infer_shapes(model)


def _torch_run(shape: LayerShape, batch: int, threads: int) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F

    x, weight = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in _arrays(shape, batch))
    if shape.op == "Linear":
        matrix = weight.t().contiguous()
        call: Callable[[], Any] = lambda: F.linear(x, matrix)  # noqa: E731
    else:
        told, dims = dict(shape.attributes), len(shape.sizes)
        plain = (1,) * dims
        stride, dilation = told.get("strides", plain), told.get("dilations", plain)
        padding = tuple(told.get("pads", (0,) * dims))[:dims]
        name = f"conv{'_transpose' if shape.op == 'ConvTranspose' else ''}{dims}d"
        convolve = getattr(F, name)
        call = lambda: convolve(x, weight, None, stride, padding, groups=shape.group, dilation=dilation)  # noqa: E731

    def run() -> Any:
        before = torch.get_num_threads()
        if before != threads:
            torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                return call()
        finally:
            if before != threads:
                torch.set_num_threads(before)

    return run
