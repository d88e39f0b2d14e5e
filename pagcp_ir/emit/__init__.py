"""Exporters: a Program as files that outlive this compiler, each run again after it is written and compared."""

from __future__ import annotations

from functools import partial

from pagcp_ir.emit import onnx, pt2, python
from pagcp_ir.emit.base import About, Exporter, ExportReport
from specs.exporting import ExportItem, format_of, onnx_options

__all__ = ["EXPORTERS", "About", "ExportReport", "Exporter", "exporter_of"]

EXPORTERS: dict[str, Exporter] = {"python": python.write, "pt2": pt2.write, "onnx": onnx.write}


def exporter_of(item: ExportItem) -> Exporter:
    """The exporter that an item of a spec's `export` asks for, with its options."""
    name = format_of(item)
    return partial(onnx.write, options=onnx_options(item)) if name == "onnx" else EXPORTERS[name]
