"""The user's source line of what runs now, as a path that means the same on every machine."""

from __future__ import annotations

import os
import sys
from types import TracebackType

import torch

__all__ = ["outside", "portable", "user_line"]

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
    path = os.path.abspath(file)
    if file.startswith("<") or path.startswith((_OWN + os.sep, _TORCH + os.sep)):
        return ""
    return f"{portable(path)}:{line}"


def portable(path: str) -> str:
    """The path below the import root that holds it, else its last component."""
    roots = sorted({os.path.abspath(p or os.curdir) for p in sys.path}, key=len, reverse=True)
    for root in roots:
        if path.startswith(root + os.sep):
            return os.path.relpath(path, root).replace(os.sep, "/")
    return os.path.basename(path)
