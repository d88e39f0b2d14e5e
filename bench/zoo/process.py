"""A function run in a child that is forked off, under limits of time and memory: same weights, own memory and end."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Stopwatch", "forked", "peak_bytes", "reset_peak"]

Row = dict[str, Any]
PATIENCE = 10
"""Wall seconds per processor second that are waited for, where other processes take the machine's time."""


class Stopwatch:
    """Wall and processor seconds since it was made or last read."""

    def __init__(self) -> None:
        self.read()

    def read(self) -> Mapping[str, float]:
        now = time.perf_counter(), time.process_time()
        before = getattr(self, "_before", now)
        self._before = now
        return {"wall": round(now[0] - before[0], 4), "cpu": round(now[1] - before[1], 4)}


def reset_peak() -> int:
    """Bytes resident now; the peak is counted from here (Linux)."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most bytes that were resident since `reset_peak`."""
    return _status("VmHWM")


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def forked(task: Callable[[Row], None], seconds: int, gigabytes: float) -> Row:
    """What `task` wrote into its row in a child process that may take `seconds` of processor time.

    A row of a child that raised has "error" = {"type", "text", "trace"}; of one that was stopped, type "Stopped".
    What it had written before is there: the row is sent whenever `row["_send"]()` is called, and at the end.
    """
    read, write = os.pipe()
    gc.collect()
    gc.freeze()  # what is there already is not walked, and so not copied, in the child
    child = os.fork()
    if child == 0:
        os.close(read)
        _run_child(task, write, seconds, gigabytes)
    os.close(write)
    with os.fdopen(read, "r", encoding="utf-8") as pipe:
        lines = pipe.read().split("\n")[:-1]  # what follows the last newline is cut off
    _, status = os.waitpid(child, 0)
    row: Row = json.loads(lines[-1]) if lines else {}
    if status != 0:
        row["error"] = {"type": "Stopped", "text": _how_stopped(status, seconds, gigabytes), "trace": ""}
    return row


def _run_child(task: Callable[[Row], None], write: int, seconds: int, gigabytes: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    signal.alarm(PATIENCE * seconds)
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    row: Row = {}

    def send() -> None:
        told = {key: value for key, value in row.items() if key != "_send"}
        os.write(write, (json.dumps(told) + "\n").encode())

    row["_send"] = send
    try:
        task(row)
    except BaseException as error:  # noqa: BLE001  (whatever happens there is a result)
        text = str(error).strip()
        row["error"] = {"type": type(error).__name__, "text": text[:500], "trace": _place(error)}
    send()
    os._exit(0)


def _place(error: BaseException) -> str:
    """The last line of the code of a library or of ours that the error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    return f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}"


def _how_stopped(status: int, seconds: int, gigabytes: float) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGALRM, signal.SIGXCPU):
            return f"took longer than {seconds} s"
        return f"ended by {signal.Signals(number).name} (limit {gigabytes:g} GiB)"
    return f"exit status {os.WEXITSTATUS(status)}"
