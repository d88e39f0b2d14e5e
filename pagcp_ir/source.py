"""The user's source line of what runs now, as a path that means the same on every machine."""

from __future__ import annotations

import os
import sys
from functools import cache, lru_cache
from types import TracebackType

import torch
from torch import fx

__all__ = ["innermost", "outside", "portable", "user_line"]

_OWN = os.path.dirname(os.path.abspath(__file__))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))


def user_line(trace: TracebackType | None = None) -> str:
    """ "model.py:12" of the innermost frame outside torch and this package; "" when there is none."""
    frames: list[tuple[str, int]] = []
    if trace is None:
        frame = sys._getframe(1)
        while frame is not None:
            frames.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]
    else:
        step: TracebackType | None = trace
        while step is not None:
            frames.insert(0, (step.tb_frame.f_code.co_filename, step.tb_lineno))
            step = step.tb_next
    return next((place for file, line in frames if (place := outside(file, line))), "")


def outside(file: str, line: int) -> str:
    """ "model.py:12" of a frame outside torch and this package, "" for one inside."""
    path = _users(file)
    return path and f"{portable(path)}:{line}"


@cache
def _users(file: str) -> str:
    """The whole path of a file of the user's, "" for torch's and our own."""
    path = os.path.abspath(file)
    return "" if file.startswith("<") or path.startswith((_OWN + os.sep, _TORCH + os.sep)) else path


def innermost(node: fx.Node) -> str:
    """The path of the module in whose forward the call stands, "" at the top and where it is not known."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return str(next(reversed(stack.values()))[0])


def portable(path: str) -> str:
    """The path below the import root that holds it, else its last component."""
    for root in _roots(tuple(sys.path), os.getcwd()):
        if path.startswith(root + os.sep):
            return path.removeprefix(root + os.sep).replace(os.sep, "/")
    return os.path.basename(path)


@lru_cache(maxsize=8)
def _roots(paths: tuple[str, ...], here: str) -> tuple[str, ...]:
    """The import roots, the deepest first."""
    return tuple(sorted({os.path.abspath(os.path.join(here, p)) for p in paths}, key=len, reverse=True))
