"""A disk that is full, or read-only, at any moment of a compile: told as that, and gone on with once there is room."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from passes.journal import read_journal
from tests import small_disk
from tests.cli.projects import project
from tests.cli.test_reliability import NET, SPEC
from tests.running import Ran, pagcp
from tests.small_disk import on_small_disk, resized

ALL = ("--set", "export=[python, pt2]")
ROOM = 4096


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where small disks can be mounted; skips where they cannot."""
    if small_disk.NOT_HERE or not hasattr(os, "fork"):
        pytest.skip(small_disk.NOT_HERE or "no fork here")
    folder = tmp_path_factory.mktemp("disk")
    try:
        on_small_disk(folder, 64, lambda: (folder / "x").write_text("x"))
    except OSError as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    assert not (folder / "x").exists()
    return folder


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("small"), SPEC, NET)


@pytest.fixture(scope="module")
def reference(spec: Path) -> Path:
    ran = pagcp("compile", spec, "-o", spec.parent / "whole", *ALL, cwd=spec.parent)
    assert ran.code == 0, ran.err
    return spec.parent / "whole"


@pytest.mark.parametrize("kib", [24, 80])
def test_a_disk_that_runs_full(disk: Path, spec: Path, reference: Path, kib: int) -> None:
    """From the journal's first lines to the exports and the list of sums."""
    out = disk / "out"

    def body() -> tuple[Ran, list[str], Ran | None, bytes, bytes]:
        first = pagcp("compile", spec, "-o", out, *ALL, cwd=spec.parent)
        left = sorted(path.name for path in disk.iterdir())
        resized(disk, ROOM)
        again = pagcp("compile", spec, "-o", out, *ALL, "--resume", cwd=spec.parent)
        files = (
            [(out / name).read_bytes() for name in ("plan.json", "model.safetensors")] if out.exists() else [b""] * 2
        )
        return first, left, again, files[0], files[1]

    first, left, again, plan, tensors = on_small_disk(disk, kib, body)
    assert first.code == 1, first.err
    assert f"error[E614]: cannot write {out}: No space left on device\n  hint: make room there" in first.err
    assert "Traceback" not in first.err
    assert "out" not in left
    assert again is not None
    assert again.code == 0, again.err
    assert plan == (reference / "plan.json").read_bytes()
    assert tensors == (reference / "model.safetensors").read_bytes()


def test_a_disk_that_is_read_only(disk: Path, spec: Path) -> None:
    def body() -> Ran:
        resized(disk, 64, read_only=True)
        return pagcp("compile", spec, "-o", disk / "out", cwd=spec.parent)

    ran = on_small_disk(disk, 64, body)
    assert (ran.code, ran.out) == (1, "")
    assert f"error[E614]: cannot write {disk / 'out'}: Read-only file system\n  hint: " in ran.err


def test_an_earlier_result_stays_when_its_replacement_does_not_fit(disk: Path, spec: Path, reference: Path) -> None:
    out = disk / "out"
    before = {path.name: path.read_bytes() for path in reference.iterdir()}
    size = sum(-(-len(data) // 4096) * 4 for data in before.values())

    def body() -> tuple[Ran, dict[str, bytes]]:
        out.mkdir()
        for name, data in before.items():
            (out / name).write_bytes(data)
        ran = pagcp("compile", spec, "-o", out, *ALL, "--force", cwd=spec.parent)
        return ran, {path.name: path.read_bytes() for path in out.iterdir()}

    ran, after = on_small_disk(disk, size + 60, body)
    assert ran.code == 1
    assert "error[E614]" in ran.err
    assert after == before
    assert json.loads(before["evidence.json"])["missed"] == []
    assert read_journal(reference / "journal.jsonl")
