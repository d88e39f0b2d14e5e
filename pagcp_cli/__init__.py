"""The public Python API: what the command line does, without the command line.

    from pagcp_cli import load_spec, compile_spec, diff
    result = compile_spec(load_spec("face.yaml"), "out/face")

Names are resolved on first use, so that importing this package never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagcp_cli.driver import compile_spec
    from pagcp_cli.result import CompileResult
    from pagcp_cli.summaries import diff
    from specs.diagnostics import Diagnostic, PagcpError
    from specs.spec import Spec, load_spec

__all__ = ["CompileResult", "Diagnostic", "PagcpError", "Spec", "compile_spec", "diff", "load_spec"]
__version__ = "0.1.0"

_HOME = {
    "CompileResult": "pagcp_cli.result",
    "Diagnostic": "specs.diagnostics",
    "PagcpError": "specs.diagnostics",
    "Spec": "specs.spec",
    "compile_spec": "pagcp_cli.driver",
    "diff": "pagcp_cli.summaries",
    "load_spec": "specs.spec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
