"""An ONNX file -> GraphSummary and GraphText, whoever wrote it: named by its weights, sizes by ONNX's shape inference.

What depends on constants alone is a constant, too: Identity, Transpose or DequantizeLinear of a weight is that weight.
A convolution multiplies its whole weight once per output position (per input position when transposed), a product
with a matrix once per row. Parameters are constants of floats or 8-bit integers, without the statistics of
BatchNormalization, which count as bytes alone. External data is not read. Graphs inside If and Loop are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from onnx import inliner, numpy_helper, shape_inference

from pagcp_ir.onnx_sizes import said_sizes
from specs.diagnostics import EmitError
from specs.diff import GraphSummary, LayerRow
from specs.graph_diff import Edge, GraphNode, GraphText
from specs.plan import Costs

__all__ = ["OnnxGraph", "OnnxLayer", "open_onnx"]

Dims = tuple[int | str, ...]
_WEIGHT_AT = {
    "Conv": 1,
    "ConvTranspose": 1,
    "ConvInteger": 1,
    "FusedConv": 1,
    "QLinearConv": 3,
    "Gemm": 1,
    "FusedGemm": 1,
    "MatMul": 1,
    "FusedMatMul": 1,
    "MatMulInteger": 1,
    "QLinearMatMul": 3,
}
"""The ops that count as layers, and which of their inputs is the weight."""
_PLAIN = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOATS = {"f16", "bf16", "f32", "f64", "i8", "u8"}
_TYPES = {
    "FLOAT": "f32",
    "DOUBLE": "f64",
    "FLOAT16": "f16",
    "BFLOAT16": "bf16",
    "INT64": "i64",
    "INT32": "i32",
    "INT16": "i16",
    "INT8": "i8",
    "UINT8": "u8",
    "BOOL": "bool",
}
_BYTES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i16": 2}
_SHOWN = 8


@dataclass(frozen=True)
class _Value:
    """A tensor: its element type, and its sizes, None where not even their number is known."""

    kind: str
    dims: Dims | None

    @property
    def text(self) -> str:
        return f"{self.kind}[{'?' if self.dims is None else ', '.join(map(str, self.dims))}]"

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The sizes where all are known."""
        dims = self.dims
        return None if dims is None or not all(isinstance(d, int) for d in dims) else tuple(int(d) for d in dims)


def open_onnx(path: str | Path, sizes: Mapping[str, Sequence[int]] | None = None) -> OnnxGraph:
    """The graph in that file, its inputs of these sizes where given, else of those that it says it was made for.

    EmitError E612 when it cannot be read.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node:
            raise ValueError("it holds no graph")
        if model.functions:
            model = inliner.inline_local_functions(model)
        _set_sizes(model.graph, {**said_sizes(model), **(sizes or {})})
        _free_batch(model.graph)
        model = shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # protobuf's, onnx's and the system's errors of any type
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EmitError.one("E612", f"the file cannot be read as ONNX: {told}", str(path)) from error
    return OnnxGraph(model, str(path))


def _set_sizes(graph: Any, sizes: Mapping[str, Sequence[int]]) -> None:
    for given in graph.input:
        dims = given.type.tensor_type.shape.dim
        for axis, (dim, size) in enumerate(zip(dims, sizes.get(given.name, ()), strict=False)):
            if axis and not dim.HasField("dim_value"):
                dim.dim_value = size
                _forget(graph)


def _forget(graph: Any) -> None:
    """What was inferred from the names of free sizes."""
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _free_batch(graph: Any) -> None:
    """Set the size of axis 0 of inputs to 1 where it is free, and forget what was inferred from the name."""
    weights = {tensor.name for tensor in graph.initializer}
    for given in graph.input:
        dims = given.type.tensor_type.shape.dim
        if given.name not in weights and len(dims) and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
            _forget(graph)


@dataclass(frozen=True)
class OnnxLayer:
    """A layer: its figures, its node, and the sizes of its weight and of its input, where they are known."""

    row: LayerRow
    node: Any
    weight: tuple[int, ...]
    given: tuple[int, ...] | None


@dataclass(frozen=True)
class OnnxGraph:
    """A model whose shapes have been inferred."""

    model: Any
    title: str

    def summary(self) -> GraphSummary:
        """Its layers in the order of the file, and what all of it costs."""
        rows = tuple(self._rows())
        unknown = sum(row.macs is None for row in rows)
        open_sizes = f"{unknown} of {len(rows)} layers have sizes that the file leaves open: their MACs count as 0"
        total = Costs(
            macs=sum(row.macs or 0 for row in rows),
            params=sum(self._count(name) for name in self._leaves if name not in self._statistics),
            bytes=sum(self._count(name) * self._itemsize(name) for name in self._leaves),
        )
        return GraphSummary(self.title, rows, total, (open_sizes,) if unknown else ())

    def text(self) -> GraphText:
        """One node per value that is computed, and inputs and outputs."""
        given = [i.name for i in self.model.graph.input if i.name not in self._constants]
        nodes = [GraphNode(name, self._type(name), "input", (), f"input {n}") for n, name in enumerate(given)]
        nodes += [self._node(node) for node in self.model.graph.node if _made(node)[0] not in self._constants]
        for n, made in enumerate(self.model.graph.output):
            edge = Edge(made.name, self._type(made.name), made.name)
            nodes.append(GraphNode("", edge.type, "return", (edge,), f"return {n}"))
        return GraphText(self.title, tuple(nodes))

    @cached_property
    def _values(self) -> Mapping[str, _Value]:
        graph = self.model.graph
        found = {v.name: _value_of(v) for v in [*graph.value_info, *graph.output, *graph.input]}
        for tensor in graph.initializer:
            found[tensor.name] = _Value(_type(tensor.data_type), tuple(tensor.dims))
        for node in graph.node:
            if node.op_type == "Constant" and node.output[0] not in found:
                found[node.output[0]] = _Value("?", None)
        return found

    @cached_property
    def _stored(self) -> Mapping[str, Any]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def _made_by(self) -> Mapping[str, Any]:
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def _constants(self) -> frozenset[str]:
        """All values that no input of the network has a part in."""
        known = {tensor.name for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            has_graph = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
            if not has_graph and not node.op_type.startswith("Random") and all(n in known for n in node.input if n):
                known.update(name for name in node.output if name)
        return frozenset(known)

    @cached_property
    def _leaves(self) -> Mapping[str, None]:
        """Constants that stand in the file, or are filled in by its shape (ConstantOfShape)."""
        made = (n for n in self.model.graph.node if n.op_type in ("Constant", "ConstantOfShape"))
        filled = {name: None for node in made if node.output[0] in self._constants for name in node.output}
        shapes = {n.input[0] for n in self.model.graph.node if n.op_type == "ConstantOfShape"}
        return {n: None for n in (*(t.name for t in self.model.graph.initializer), *filled) if n not in shapes}

    @cached_property
    def _statistics(self) -> frozenset[str]:
        norms = (node for node in self.model.graph.node if node.op_type == "BatchNormalization")
        return frozenset(self._source(name) for node in norms for name in node.input[3:5])

    def _count(self, name: str) -> int:
        value = self._values.get(name, _Value("?", None))
        return math.prod(value.sizes) if value.kind in _FLOATS and value.sizes is not None else 0

    def _itemsize(self, name: str) -> int:
        return _BYTES.get(self._values[name].kind, 1)

    def _source(self, name: str) -> str:
        """The constant of the file that a constant value comes from, by its first input."""
        while name not in self._leaves and name in self._made_by and self._made_by[name].input:
            name = self._made_by[name].input[0]
        return name

    def _weight(self, node: Any) -> str | None:
        at = _WEIGHT_AT.get(node.op_type)
        name = node.input[at] if at is not None and len(node.input) > at else ""
        return name if name in self._constants else None

    def _layer_name(self, weight: str) -> str:
        return self._source(weight).removesuffix(".weight")

    def _rows(self) -> Iterator[LayerRow]:
        return (layer.row for layer in self.layers())

    def layers(self) -> Iterator[OnnxLayer]:
        """The layers in the order of the file."""
        batch = self._batch()
        for node in self.model.graph.node:
            weight = self._weight(node)
            shape = self._sizes(weight) if weight is not None else None
            if weight is None or shape is None or len(shape) < 2:
                continue
            own = dict.fromkeys(self._source(n) for n in node.input if n in self._constants)
            kind, inputs, outputs = _kind(node, shape)
            params = sum(self._count(name) for name in own)
            size = sum(self._count(name) * self._itemsize(name) for name in own)
            macs = self._macs(node, shape, batch)
            row = LayerRow(self._layer_name(weight), kind, inputs, outputs, macs, params, size)
            yield OnnxLayer(row, node, shape, self._sizes(node.input[0]))

    def _macs(self, node: Any, shape: tuple[int, ...], batch: int) -> int | None:
        """Of one sample; None where sizes are open."""
        quantised = _WEIGHT_AT[node.op_type] == 3
        given, made = self._sizes(node.input[0]), self._sizes(node.output[0])
        at = given if node.op_type == "ConvTranspose" else made
        if at is None or (given is None and not quantised):
            return None
        if "Conv" in node.op_type:
            return max(1, at[0] // batch) * math.prod(at[2:]) * math.prod(shape)
        return max(1, math.prod(at[:-1]) // batch) * math.prod(shape[-2:])

    def _batch(self) -> int:
        for given in self.model.graph.input:
            dims = self._values[given.name].dims
            if given.name not in self._constants and dims and isinstance(dims[0], int):
                return max(1, dims[0])
        return 1

    def _sizes(self, name: str) -> tuple[int, ...] | None:
        return self._values[name].sizes if name in self._values else None

    def _type(self, name: str) -> str:
        return self._values[name].text if name in self._values else "?"

    def _node(self, node: Any) -> GraphNode:
        named = node.input[1] if node.op_type == "BatchNormalization" else self._weight(node)
        attributes = ", ".join(f"{a.name}={_attribute(a)}" for a in sorted(node.attribute, key=lambda a: a.name))
        first, *others = _made(node)
        return GraphNode(
            name=first,
            type=", ".join(map(self._type, (first, *others))),
            op=f"{node.op_type}({attributes})" if attributes else str(node.op_type),
            edges=tuple(self._edge(name) for name in node.input),
            key=f"{node.op_type} {self._layer_name(named)}" if named is not None else str(node.op_type),
            others=tuple(others),
        )

    def _edge(self, name: str) -> Edge:
        if not name:
            return Edge("-", "")
        if name not in self._constants:
            return Edge(name, self._type(name), name)
        return Edge(self._literal(name) or self._source(name), self._type(name))

    def _literal(self, name: str) -> str:
        """A few integers, such as a shape, as they are."""
        tensor = self._stored.get(name)
        if tensor is None and name in self._made_by and self._made_by[name].op_type == "Constant":
            tensor = next((a.t for a in self._made_by[name].attribute if a.name == "value"), None)
        if tensor is None or _type(tensor.data_type) not in ("i64", "i32") or math.prod(tensor.dims) > _SHOWN:
            return ""
        return "" if tensor.data_location else str(numpy_helper.to_array(tensor).tolist())


def _kind(node: Any, shape: Sequence[int]) -> tuple[str, int, int]:
    """The layer's kind in torch's words where it has some, and its input and output width."""
    attributes = {a.name: a.i for a in node.attribute}
    plain = node.op_type in _PLAIN
    if "Conv" in node.op_type:
        parts, deep = attributes.get("group", 1) or 1, len(shape) - 2
        inputs, outputs = shape[1] * parts, shape[0]
        if node.op_type == "ConvTranspose":
            inputs, outputs = shape[0], shape[1] * parts
        return (f"{node.op_type}{deep}d" if plain else str(node.op_type)), inputs, outputs
    inputs, outputs = shape[-2:]
    if attributes.get("transB"):
        inputs, outputs = outputs, inputs
    return ("Linear" if plain else str(node.op_type)), inputs, outputs


def _made(node: Any) -> list[str]:
    """The values that the node makes; outputs that nobody asks for have no name."""
    return [name for name in node.output if name] or [""]


def _value_of(info: Any) -> _Value:
    if not info.type.HasField("tensor_type"):
        return _Value(str(info.type.WhichOneof("value") or "?").removesuffix("_type"), None)
    tensor = info.type.tensor_type
    dims: Iterable[Any] = tensor.shape.dim
    sizes = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
    return _Value(_type(tensor.elem_type), sizes if tensor.HasField("shape") else None)


def _type(number: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(number))
    return _TYPES.get(name, name.lower())


def _attribute(attribute: Any) -> str:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, (onnx.GraphProto, onnx.TensorProto)):
        return type(value).__name__.removesuffix("Proto").lower()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (list, tuple)) or hasattr(value, "__len__"):
        items = [f"{v:g}" if isinstance(v, float) else str(v) for v in list(value)[: _SHOWN + 1]]
        return f"[{', '.join(items[:_SHOWN])}{', ...' if len(items) > _SHOWN else ''}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
