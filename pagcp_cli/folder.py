"""The output folder appears whole or not at all: everything is written beside it and renamed when complete.

An earlier result gives way only to a complete new one, and only when asked to; nothing else is ever removed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specs.diagnostics import SpecError

__all__ = ["MARKS", "check_target", "staged", "writing"]

MARKS = ("plan.json", "spec.lock.yaml")
"""A folder that holds these is a result of an earlier run."""

_OURS = ("plan.json", "evidence.json", "spec.lock.yaml", "journal.jsonl", "report.html")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell an OSError inside as SpecError S119: `path` cannot be written."""
    try:
        yield
    except OSError as error:
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        told = "a part of that path is no folder" if blocked else error.strerror or str(error)
        hint = "choose another place"
        raise SpecError.one("S119", f"cannot write {path}: {told}", hint=hint) from error


def check_target(out: Path, force: bool) -> None:
    """Refuse an `out` that must not be replaced. SpecError S119 says why and what to do."""
    with writing(out):
        _check_target(out, force)


def _check_target(out: Path, force: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise SpecError.one("S119", f"{out} exists and is not a folder", hint="choose another -o")
    names = sorted(p.name for p in out.iterdir())
    if not names:
        return
    if not all(mark in names for mark in MARKS):
        message = f"{out} exists and is not an earlier result (it holds {_few(names)})"
        raise SpecError.one("S119", message, hint="choose another -o; only earlier results are replaced")
    foreign = [name for name in names if not _is_ours(name)]
    if foreign:
        message = f"{out} holds files that are not of the earlier result: {_few(foreign)}"
        raise SpecError.one("S119", message, hint="move them away, or choose another -o")
    if not force:
        message = f"{out} holds an earlier result"
        raise SpecError.one("S119", message, hint="--force replaces it; or choose another -o")


@contextmanager
def staged(out: Path, force: bool) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place when the block ends well, and is gone otherwise."""
    check_target(out, force)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield folder
        with writing(out):
            _publish(folder, out, force)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, out: Path, force: bool) -> None:
    check_target(out, force)
    mask = _umask()
    folder.chmod(0o777 & ~mask)  # the temporary folder, and the tensors in it, were for their owner alone
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)
    if not out.exists():
        folder.rename(out)
        return
    # the old result is moved aside, not removed, until the new one stands in its place
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
    out.rename(aside / out.name)
    try:
        folder.rename(out)
    except OSError:
        (aside / out.name).rename(out)
        raise
    finally:
        if out.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith("model.") or name == "__pycache__"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
