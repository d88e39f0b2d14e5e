"""The public Python API: what the command line does, without the command line.

    from pagcp_cli import load_spec, compile_spec, diff
    result = compile_spec(load_spec("face.yaml"), "out/face")

Names are resolved on first use, so that importing this package never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagcp_cli.applying import apply_spec
    from pagcp_cli.benching import bench
    from pagcp_cli.driver import compile_spec, plan_spec
    from pagcp_cli.result import CompileResult
    from pagcp_cli.summaries import diff
    from pagcp_cli.verifying import verify_folder
    from pagcp_ir.apply_plan import apply_plan
    from specs.diagnostics import Diagnostic, PagcpError
    from specs.plan import Plan, read_plan
    from specs.spec import Spec, load_spec

__all__ = [
    "CompileResult",
    "Diagnostic",
    "PagcpError",
    "Plan",
    "Spec",
    "apply_plan",
    "apply_spec",
    "bench",
    "compile_spec",
    "diff",
    "load_spec",
    "plan_spec",
    "read_plan",
    "verify_folder",
]
__version__ = "0.1.0"

_HOME = {
    "CompileResult": "pagcp_cli.result",
    "Diagnostic": "specs.diagnostics",
    "PagcpError": "specs.diagnostics",
    "Plan": "specs.plan",
    "Spec": "specs.spec",
    "apply_plan": "pagcp_ir.apply_plan",
    "apply_spec": "pagcp_cli.applying",
    "bench": "pagcp_cli.benching",
    "compile_spec": "pagcp_cli.driver",
    "diff": "pagcp_cli.summaries",
    "load_spec": "specs.spec",
    "plan_spec": "pagcp_cli.driver",
    "read_plan": "specs.plan",
    "verify_folder": "pagcp_cli.verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
