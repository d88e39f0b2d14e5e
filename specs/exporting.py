"""What `export` of a spec lists: formats by name, or onnx with its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema

from specs.diagnostics import nearest
from specs.model import List, Model, Problem, relocated
from specs.node import kind, shown

__all__ = ["AXES", "FORMATS", "Export", "ExportItem", "OnnxExport", "OnnxOptions", "format_of", "onnx_options"]

FORMATS = ("python", "pt2", "onnx")
AXES = ("batch", "height", "width")
Axis = Literal["batch", "height", "width"]
_OPSETS = range(18, 26)
"""Asked for an older one, torch's exporter writes 18 unasked, or a graph that no runtime takes."""


def _opset(value: int) -> int:
    if value not in _OPSETS:
        first, last = _OPSETS[0], _OPSETS[-1]
        hint = "torch's exporter writes no other; convert the file that it writes"
        raise Problem("S104", f"must be from {first} to {last}, got {value}", hint).error
    return value


def _axes(value: tuple[Axis, ...]) -> tuple[Axis, ...]:
    if len(set(value)) < len(value):
        raise Problem("S111", "names an axis twice", "name each once").error
    return value


Opset = Annotated[int, AfterValidator(_opset), WithJsonSchema({"type": "integer", "enum": list(_OPSETS)})]


class OnnxOptions(Model):
    """How model.onnx is written."""

    opset: Opset | None = Field(default=None, description="version of ONNX's operators, 18 to 25; unset: torch's")
    dynamic: Annotated[List[Axis], AfterValidator(_axes)] | None = Field(
        default=None, description="axes that must be free; unset: those that the network lets be free"
    )


class OnnxExport(Model):
    """`- onnx: {options}`."""

    onnx: OnnxOptions = Field(default=OnnxOptions(), description="how model.onnx is written")


ExportItem: TypeAlias = str | OnnxExport


def _item(value: Any) -> Any:
    """A format's name, or onnx with options. Errors lie where they do in the file."""
    if isinstance(value, OnnxExport):
        return value
    if isinstance(value, Mapping) and len(value) != 1:
        raise Problem("S105", f"must hold one format, got {len(value)} keys", "put a dash before each format").error
    if not isinstance(value, (str, Mapping)):
        raise Problem("S105", f"must be a format such as onnx, got {kind(value)}").error
    name, options = (value, None) if isinstance(value, str) else next(iter(value.items()))
    if name not in FORMATS:
        close = nearest(str(name), FORMATS)
        text = f"must be one of {', '.join(FORMATS)}, got {shown(name)}"
        raise Problem("S107", text, close if close.startswith("did") else "").error
    if options is None:
        return name
    if name != "onnx":
        raise Problem("S105", f": {name} takes no options", f"write {name}").error
    try:
        return OnnxExport(onnx=OnnxOptions.model_validate(options))
    except ValidationError as error:
        raise relocated(error, (name,)) from None


_OPTIONS = {"onnx": {"anyOf": [{"$ref": "#/$defs/OnnxOptions"}, {"type": "null"}]}}
Export = Annotated[
    ExportItem,
    BeforeValidator(_item),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(FORMATS)},
                {"type": "object", "properties": _OPTIONS, "required": ["onnx"], "additionalProperties": False},
            ]
        }
    ),
]


def format_of(item: ExportItem) -> str:
    """Its name."""
    return "onnx" if isinstance(item, OnnxExport) else item


def onnx_options(item: ExportItem) -> OnnxOptions:
    """Its options, those of onnx as they are where none are given."""
    return item.onnx if isinstance(item, OnnxExport) else OnnxOptions()
