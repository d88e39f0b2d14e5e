"""Exporters: a Program as files that outlive this compiler, each run again after it is written and compared."""

from __future__ import annotations

from pagcp_ir.emit import onnx, pt2, python
from pagcp_ir.emit.base import About, Exporter, ExportReport

__all__ = ["EXPORTERS", "About", "ExportReport", "Exporter"]

EXPORTERS: dict[str, Exporter] = {"python": python.write, "pt2": pt2.write, "onnx": onnx.write}
