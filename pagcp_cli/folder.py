"""The output folder appears whole or not at all: everything is written beside it and renamed when complete.

An earlier result gives way only to a complete new one, and only when asked to; nothing else is ever removed. Beside
OUT lies `.OUT.partial` while a run lasts: `result` is what becomes OUT, `old` what OUT held, the rest what a later run
needs to go on after a kill. The folder is locked by the process that works in it: without a lock it is a dead one's.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from specs.diagnostics import SpecError
from specs.plan import AMENDED

__all__ = ["JOURNAL", "MARKS", "REPORT", "SUMS", "Stage", "check_target", "staged", "unfinished", "writing"]

MARKS = ("plan.json", "spec.lock.yaml")
"""A folder that holds these is a result of an earlier run."""
JOURNAL = "journal.jsonl"
REPORT = "report.html"
SUMS = "SHA256SUMS"
_WORK = (b'{"kind": "answer"', b'{"kind": "epoch"')
_OURS = ("plan.json", AMENDED, "evidence.json", "spec.lock.yaml", JOURNAL, REPORT, SUMS)


@dataclass
class Stage:
    """Where a run writes. `keep`: whether what is there stays when the run fails, for a later one to go on with."""

    folder: Path
    keep: bool = False

    @property
    def result(self) -> Path:
        """The folder that becomes OUT."""
        return self.folder / "result"

    @property
    def journal(self) -> Path:
        """The journal of the run, and of those that it goes on with."""
        return self.result / JOURNAL

    @property
    def rows(self) -> Path:
        """The journal's long rows of numbers, which do not become a part of the result."""
        return self.folder / "rows.f64"

    @property
    def owner(self) -> Path:
        """Who works in the folder, for who else wants to."""
        return self.folder / "owner"

    @property
    def checkpoints(self) -> Path:
        """The folder of what training needs to go on."""
        return self.folder / "checkpoints"


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


def check_target(out: Path, force: bool, resume: bool = False) -> None:
    """Refuse an `out` that must not be replaced. SpecError S119 says why and what to do."""
    with writing(out):
        _check_target(out, force)
        if _locked_by_another(_partial(out)):
            raise _taken_already(out)
        if unfinished(out) and not (force or resume):
            hint = "--resume goes on with it, --force starts anew"
            raise SpecError.one("S119", f"an earlier run to {out} was interrupted", hint=hint)


def unfinished(out: Path) -> bool:
    """Whether an interrupted run to `out` left work to go on with."""
    journal = Stage(_partial(out)).journal
    if not journal.is_file():
        return False
    with journal.open("rb") as lines:
        return any(line.startswith(_WORK) for line in lines)


@contextmanager
def staged(out: Path, force: bool, resume: bool = False) -> Iterator[Stage]:
    """A folder beside `out` whose result takes the place of `out` when the block ends well.

    It is gone otherwise, unless it is to be kept. With `resume` the journal and checkpoints of an interrupted run are
    still in it; without, they are removed.
    """
    check_target(out, force, resume)
    stage = Stage(_partial(out))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        stage.folder.mkdir(mode=0o700, exist_ok=True)
    with _lock(stage.folder, out):
        try:
            with writing(out):
                _cleared(stage, out, resume)
                stage.owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield stage
            with writing(out):
                _publish(stage, out, force)
            stage.keep = False
        finally:
            _restored(stage, out)
            if not stage.keep:
                shutil.rmtree(stage.folder, ignore_errors=True)


def _partial(out: Path) -> Path:
    return out.parent / f".{out.name}.partial"


def _cleared(stage: Stage, out: Path, resume: bool) -> None:
    """Remove what earlier runs left, but for what this one goes on with."""
    _restored(stage, out)
    stage.result.mkdir(exist_ok=True)
    kept = (stage.result, *((stage.journal, stage.rows, stage.checkpoints) if resume else ()))
    for path in (*stage.result.iterdir(), *stage.folder.iterdir()):
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    stage.checkpoints.mkdir(exist_ok=True)


def _publish(stage: Stage, out: Path, force: bool) -> None:
    _check_target(out, force)
    mask = _umask()
    stage.result.chmod(0o777 & ~mask)  # the tensors in it were for their owner alone
    for file in stage.result.iterdir():
        file.chmod(0o666 & ~mask)
    if out.exists():  # moved aside, not removed, until the new one stands in its place
        out.rename(stage.folder / "old")
    stage.result.rename(out)


def _restored(stage: Stage, out: Path) -> None:
    """Put back the earlier result, if a new one did not come to take its place."""
    old = stage.folder / "old"
    if old.is_dir() and not out.exists():
        old.rename(out)


if sys.platform == "win32":  # no locks on folders: who starts two runs to one place is on their own

    @contextmanager
    def _lock(folder: Path, out: Path) -> Iterator[None]:
        yield

    def _locked_by_another(folder: Path) -> bool:
        return False

else:
    import fcntl

    @contextmanager
    def _lock(folder: Path, out: Path) -> Iterator[None]:
        """Hold the folder for this process; the system lets go of it however the process ends."""
        with writing(out):
            handle = os.open(folder, os.O_RDONLY)
        try:
            if not _taken(handle, folder):
                raise _taken_already(out)
            yield
        finally:
            os.close(handle)

    def _locked_by_another(folder: Path) -> bool:
        if not folder.is_dir():
            return False
        handle = os.open(folder, os.O_RDONLY)
        try:
            return not _taken(handle, folder)
        finally:
            os.close(handle)

    def _taken(handle: int, folder: Path) -> bool:
        """Whether the folder is ours now. A file system without locks has nobody to share it with."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        # another process may have removed it between opening and locking
        return folder.exists() and os.fstat(handle).st_ino == folder.stat().st_ino


def _taken_already(out: Path) -> SpecError:
    """Another run holds the folder, and says who it is unless it has just begun."""
    try:
        owner = Stage(_partial(out)).owner.read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        owner = ""
    told = f"another run is writing {out}" + (f": {owner.strip()}" if owner.strip().isprintable() and owner else "")
    return SpecError.one("S119", told, hint="wait for it, or choose another -o")


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


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith("model.") or name == "__pycache__"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
