"""What all tests share: golden files, the data folder, one compiled digits example for the whole session."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.running import EXAMPLES, ROOT, Ran, pagcp

# Worker processes share the cores: one torch thread each, also in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing")


@pytest.fixture(autouse=True, scope="module")
def own_import_path() -> Iterator[None]:
    """What a module's fixtures compile leaves nothing on the import path of the next module."""
    path = list(sys.path)
    _forget_user_modules()
    yield
    _forget_user_modules()
    sys.path[:] = path


@pytest.fixture(autouse=True)
def own_user_modules() -> Iterator[None]:
    """Compiles in this process import `net` and `digits` from wherever the spec of the test lies."""
    path = list(sys.path)
    _forget_user_modules()
    yield
    _forget_user_modules()
    sys.path[:] = path


def _forget_user_modules() -> None:
    for name in ("net", "digits"):
        sys.modules.pop(name, None)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: compare with tests/golden/<name>; a missing file is a failure."""
    update = bool(request.config.getoption("--update-golden"))

    def check(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            return
        assert path.is_file(), f"{path.relative_to(ROOT)} is missing: run pytest --update-golden and review it"
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder that PAGCP_DATA names; tests on larger data are skipped without it."""
    name = os.environ.get("PAGCP_DATA", "")
    if not name or not Path(name).is_dir():
        pytest.skip("PAGCP_DATA does not name a folder of test data")
    return Path(name)


@dataclass(frozen=True)
class Compiled:
    """The digits example, compiled by the console script."""

    out: Path
    ran: Ran


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """specs/examples/digits.yaml compiled once, whatever the number of worker processes."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "digits"
    with FileLock(str(folder) + ".lock"):
        if not (folder / "code").is_file():
            folder.mkdir()
            ran = pagcp("compile", EXAMPLES / "digits.yaml", "-o", folder / "out", fresh=True)
            (folder / "stdout").write_text(ran.out, encoding="utf-8")
            (folder / "stderr").write_text(ran.err, encoding="utf-8")
            (folder / "code").write_text(str(ran.code), encoding="utf-8")
    read = {name: (folder / name).read_text(encoding="utf-8") for name in ("code", "stdout", "stderr")}
    return Compiled(folder / "out", Ran(int(read["code"]), read["stdout"], read["stderr"]))
