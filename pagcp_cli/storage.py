"""A disk that is full, read-only or gone while a run writes: told as that, wherever it shows, and never as a bug.

Libraries tell it in their own ways: torch's writer says that it is at an unexpected position, safetensors quotes the
number, exporters wrap it. What was found so far stays for `--resume`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specs.diagnostics import DataError, EmitError

__all__ = ["storage_failure", "storing"]

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE, errno.ENODEV)
_TEXT = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|Input/output error|File too large"
    r"|\bos error (?:28|30|122|5)\b"
)
_TORCH = re.compile(r"inline_container.*unexpected pos|PytorchStreamWriter failed writing|file write failed", re.DOTALL)


@contextmanager
def storing(out: Path) -> Iterator[None]:
    """Tell what goes wrong inside for lack of a place to write to as EmitError E614."""
    try:
        yield
    except Exception as error:
        told = None if isinstance(error, DataError) else storage_failure(error)  # the user's code writes elsewhere
        if told is None:
            raise
        hint = "make room there, or choose another -o on another disk"
        raise EmitError.one("E614", f"cannot write {out}: {told}", hint=hint) from error


def storage_failure(error: BaseException) -> str | None:
    """What is wrong with the disk, if that is why this was raised; None otherwise."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, OSError) and link.errno in _NUMBERS:
            return link.strerror or str(link)
        if match := _TEXT.search(str(link)):
            return match[0]
        if _TORCH.search(str(link)):
            return "No space left on device"
        link = link.__cause__ or link.__context__
    return None
