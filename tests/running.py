"""Running the command line from tests: the installed script, or, seconds sooner, a fork of this process.

A fork has torch imported already. It ends like the script: exit code, stdout and stderr are those of a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "specs" / "examples"


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str


def pagcp(
    *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, fresh: bool = False
) -> Ran:
    """Run the command line; `fresh`: by the installed script, in an interpreter of its own."""
    words = [str(Path(sys.executable).with_name("pagcp")), *map(str, arguments)]
    # a fork after threads of OpenMP may hang
    forks = hasattr(os, "fork") and "torch" in sys.modules and os.environ.get("OMP_NUM_THREADS") == "1"
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        run = _spawned if fresh or not forks else _forked
        code = run(words, cwd or ROOT, env or {}, out, err)
        out.seek(0), err.seek(0)
        return Ran(code, out.read().decode(), err.read().decode())


def _spawned(words: list[str], cwd: Path, env: dict[str, str], out: BinaryIO, err: BinaryIO) -> int:
    given = {**os.environ, **env}
    return subprocess.run(
        words, cwd=cwd, env=given, stdout=out, stderr=err, stdin=subprocess.DEVNULL, timeout=300, check=False
    ).returncode


def _forked(words: list[str], cwd: Path, env: dict[str, str], out: BinaryIO, err: BinaryIO) -> int:
    child = os.fork()
    if child == 0:
        try:
            _run(words, cwd, env, out, err)
        finally:
            os._exit(70)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _run(words: list[str], cwd: Path, env: dict[str, str], out: BinaryIO, err: BinaryIO) -> NoReturn:
    """Be the script, as far as it can tell."""
    from pagcp_cli.main import main

    os.chdir(cwd)
    os.environ.update(env)
    with open(os.devnull, "rb") as nothing:
        for file, number in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(file.fileno(), number)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = os.fdopen(number, mode, encoding="utf-8", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = words
    warnings.resetwarnings()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
