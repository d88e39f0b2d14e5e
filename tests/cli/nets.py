"""Small ONNX files for tests, made node by node: no exporter runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def conv_net(path: Path, widths: Sequence[int], size: Any = 16, batch: Any = "batch") -> Path:
    """3x3 convolutions of these widths, the first being the input's, and ReLUs; inputs [batch, ., size, size]."""
    draw = np.random.default_rng(0)
    nodes, weights, value = [], [], "image"
    for n, (inputs, outputs) in enumerate(pairwise(widths)):
        weight = draw.standard_normal((outputs, inputs, 3, 3)).astype(np.float32) / inputs
        weights.append(numpy_helper.from_array(weight, f"conv{n}.weight"))
        nodes.append(helper.make_node("Conv", [value, f"conv{n}.weight"], [f"c{n}"], name=f"n{n}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{n}"], [f"r{n}"]))
        value = f"r{n}"
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, widths[0], size, size])
    made = helper.make_tensor_value_info(value, TensorProto.FLOAT, [batch, widths[-1], size, size])
    graph = helper.make_graph(nodes, "net", [given], [made], weights)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path
