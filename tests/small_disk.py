"""A real disk of a few KiB: a tmpfs in a mount namespace of a forked process, which needs no rights.

What runs inside sees it at a folder; nobody else does, and it is gone with the process.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["NOT_HERE", "on_small_disk", "resized"]

_NEW_NAMESPACES = 0x10000000 | 0x00020000  # CLONE_NEWUSER | CLONE_NEWNS
_REMOUNT, _READ_ONLY, _PRIVATE = 32, 1, (1 << 18) | 16384
NOT_HERE = "" if sys.platform == "linux" else "namespaces are Linux's"


def on_small_disk(folder: Path, kib: int, body: Callable[[], Any]) -> Any:
    """What `body` gives in a process of its own in which `folder` is a disk of that size; OSError where none can be."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            _mounted(folder, kib)
            found: tuple[bool, Any] = True, body()
        except OSError as error:
            found = False, error
        except BaseException:  # noqa: BLE001 - handed to the process that asked
            found = False, AssertionError(traceback.format_exc())
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(found, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        done, value = pickle.load(pipe)
    os.waitpid(child, 0)
    if not done:
        raise value
    return value


def resized(folder: Path, kib: int, *, read_only: bool = False) -> None:
    """The disk at `folder`, with another size, or read-only; inside `on_small_disk`."""
    _mount(folder, _REMOUNT | (_READ_ONLY if read_only else 0), f"size={kib}k")


def _mounted(folder: Path, kib: int) -> None:
    user, group, libc = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACES):
        raise OSError(ctypes.get_errno(), "no namespace of our own")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"none", b"/", None, _PRIVATE, None):
        raise OSError(ctypes.get_errno(), "the mounts cannot be made private")
    _mount(folder, 0, f"size={kib}k")


def _mount(folder: Path, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), f"no tmpfs at {folder}")
