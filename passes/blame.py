"""Which line of the user's code raised, and in whose words: for messages of errors that are not ours."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from functools import cache
from pathlib import Path

from pagcp_ir.source import portable

__all__ = ["out_of_memory", "raised_at", "words"]

_OWN = tuple(str(Path(__file__).parents[1] / name) + os.sep for name in ("passes", "pagcp_ir", "pagcp_cli", "specs"))
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+), in ', re.MULTILINE)
_WORKER = "in DataLoader worker process"
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def raised_at(error: BaseException) -> str:
    """ "net.py:12" of the innermost frame of the user's own code; "" where there is none."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    if _WORKER in str(error):  # what a process that loads data raised comes as text
        frames += [(file, int(line)) for file, line in _FRAME.findall(str(error))]
    users = [(file, line) for file, line in frames if _is_users(file)]
    return f"{portable(os.path.abspath(users[-1][0]))}:{users[-1][1]}" if users else ""


def words(error: BaseException) -> str:
    """ "ValueError: what it says", in one line."""
    lines = str(error).strip().splitlines() or [""]
    if _WORKER in lines[0]:
        last = next((line for line in reversed(lines) if re.match(r"[\w.]+(:|$)", line)), lines[0])
        return last.strip()
    return f"{type(error).__name__}: {lines[0]}"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, that of torch on the CPU, or an accelerator's."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(told in str(error).lower() for told in _MEMORY)


@cache
def _is_users(file: str) -> bool:
    path = os.path.abspath(file)
    if file.startswith("<") or path.startswith(_OWN):
        return False
    inside = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return not any(path.startswith(folder + os.sep) for folder in inside)
