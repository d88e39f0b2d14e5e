"""What a file that is to be timed takes as inputs: from the file, and from what the caller says of free sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from pagcp_ir.onnx_sizes import said_sizes
from pagcp_ir.timing.race import Given
from specs.diagnostics import EmitError, SpecError, nearest

__all__ = ["Shapes", "given_shapes", "onnx_inputs"]

Shapes = Mapping[str, tuple[int, ...]]
"""By input's name, or by "0", "1", ... for those that are told by their place: the whole shape."""
_HINT = "give the shape of each input: --input NAME=1x3x224x224"


def given_shapes(names: Sequence[str], shapes: Shapes, where: str) -> dict[str, tuple[int, ...]]:
    """Shapes by name, of what is told by name or by place. SpecError S122: no such input."""
    found = {}
    for key, shape in shapes.items():
        name = names[int(key)] if key.isdigit() and key not in names and int(key) < len(names) else key
        if name not in names:
            raise SpecError.one("S122", f"there is no input {key}", where, nearest(key, names))
        found[name] = shape
    return found


def onnx_inputs(path: Path, shapes: Shapes, batch: int | None) -> tuple[Given, ...]:
    """The inputs of an ONNX file at that batch size; at 1, or what is fixed or told, where it is None.

    Free sizes that nobody tells are those that the file says it was made for.

    SpecError S122 for sizes that nobody tells, or that the file has otherwise; EmitError E612 for a file that is none.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's, onnx's and the system's errors of any type
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EmitError.one("E612", f"the file cannot be read as ONNX: {told}", str(path)) from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [given for given in graph.input if given.name not in weights]
    told_shapes = said_sizes(model) | given_shapes([given.name for given in inputs], shapes, str(path))
    return tuple(_given(given, told_shapes.get(given.name), batch, str(path)) for given in inputs)


def _given(value: onnx.ValueInfoProto, told: tuple[int, ...] | None, batch: int | None, where: str) -> Given:
    tensor = value.type.tensor_type
    kind = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type else ""
    if not kind or kind in ("bfloat16", "object", "str"):
        raise SpecError.one("S122", f"the input {value.name} is no tensor of numbers that can be made up", where)
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    free = [dim.dim_param or "?" for dim in tensor.shape.dim]
    if not tensor.HasField("shape") or (told is not None and len(told) != len(dims)):
        raise SpecError.one("S122", f"the input {value.name} has {_text(dims, free) or 'no sizes'}", where, _HINT)
    shape = []
    for axis, size in enumerate(dims):
        wanted = told[axis] if told is not None else None
        if axis == 0:
            wanted = batch if batch is not None else wanted or size or 1
        if wanted is None and size is None:
            text = f"the input {value.name} has free sizes: {_text(dims, free)}"
            raise SpecError.one("S122", text, where, f"--input {value.name}={_example(dims)}")
        if size is not None and wanted not in (None, size):
            text = f"the input {value.name} has the sizes {_text(dims, free)}, not {wanted} on axis {axis}"
            raise SpecError.one("S122", text, where, "" if axis else f"its batch size is fixed: --batch {size}")
        shape.append(size if size is not None else int(wanted or 1))
    return Given(value.name, tuple(shape), kind)


def _text(dims: Sequence[int | None], free: Sequence[str]) -> str:
    return "x".join(free[n] if size is None else str(size) for n, size in enumerate(dims))


def _example(dims: Sequence[int | None]) -> str:
    return "x".join(str(size or (1 if axis == 0 else 224)) for axis, size in enumerate(dims))
